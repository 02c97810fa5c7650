//! Memory placement: pages and NUMA nodes.

use std::fmt;

use serde::{Serialize, Serializer};

/// Whether large regions use huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HugePages {
    /// Never.
    Off,
    /// By `madvise`, if the system supports them (the default).
    #[default]
    Transparent,
    /// From the pages reserved by the administrator (`MAP_HUGETLB`, 2 MiB). If there are too few, a
    /// region uses transparent ones, and
    /// [`RegionLayout::fallbacks`](crate::RegionLayout::fallbacks) reports it.
    Explicit,
}

impl HugePages {
    /// The name used in reports and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Transparent => "transparent",
            Self::Explicit => "explicit",
        }
    }
}

/// A set of NUMA nodes among the first 64.
///
/// ```
/// use ryz_tmac::NodeSet;
///
/// let nodes: NodeSet = [0, 2].into_iter().collect();
/// assert_eq!(nodes.to_string(), "0,2");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Number of nodes that a set can hold.
    pub const MAX: usize = u64::BITS as usize;

    /// One node; `None` for [`NodeSet::MAX`] and above.
    pub fn one(node: usize) -> Option<Self> {
        (node < Self::MAX).then(|| Self(1 << node))
    }

    /// Whether it contains no node.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |node| self.0 >> node & 1 == 1)
    }

    /// The bit mask passed to the system.
    #[cfg(target_os = "linux")]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<usize> for NodeSet {
    /// Ignores nodes from [`NodeSet::MAX`] on.
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Self {
        let sets = nodes.into_iter().filter_map(Self::one);
        Self(sets.fold(0, |bits, set| bits | set.0))
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, node) in self.iter().enumerate() {
            write!(f, "{}{node}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for NodeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// The nodes on which pages are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NodePlacement {
    /// The node of the thread that touches a page first: the system's own rule (the default), which
    /// costs nothing.
    #[default]
    FirstTouch,
    /// Only these nodes.
    Bind(NodeSet),
    /// Interleaved over these nodes.
    Interleave(NodeSet),
}

impl fmt::Display for NodePlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstTouch => f.write_str("first-touch"),
            Self::Bind(nodes) => write!(f, "bind:{nodes}"),
            Self::Interleave(nodes) => write!(f, "interleave:{nodes}"),
        }
    }
}

impl Serialize for NodePlacement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

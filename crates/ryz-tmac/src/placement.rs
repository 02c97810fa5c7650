//! Where memory lies: on which pages, on which NUMA nodes.

use std::fmt;

use serde::{Serialize, Serializer};

/// Whether large regions lie on huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HugePages {
    /// Never.
    Off,
    /// By `madvise`, where the system has them (the default).
    #[default]
    Transparent,
    /// From the pages that the system's owner set apart (`MAP_HUGETLB`, 2 MiB). Where there are too few of them a region
    /// takes transparent ones, and [`RegionLayout::fallbacks`](crate::RegionLayout::fallbacks) says so.
    Explicit,
}

impl HugePages {
    /// The name in reports and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Transparent => "transparent",
            Self::Explicit => "explicit",
        }
    }
}

/// A set of NUMA nodes, of the first 64.
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
    /// The nodes that a set can name.
    pub const MAX: usize = u64::BITS as usize;

    /// One node; `None` from [`NodeSet::MAX`] on.
    pub fn one(node: usize) -> Option<Self> {
        (node < Self::MAX).then(|| Self(1 << node))
    }

    /// Whether no node is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |node| self.0 >> node & 1 == 1)
    }

    /// As the system takes it.
    #[cfg(target_os = "linux")]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<usize> for NodeSet {
    /// Nodes from [`NodeSet::MAX`] on are left out.
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

/// On which nodes pages lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NodePlacement {
    /// On the node of the thread that touches a page first: the system's own rule (the default), which costs nothing.
    #[default]
    FirstTouch,
    /// On these nodes only.
    Bind(NodeSet),
    /// In turns on these nodes.
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

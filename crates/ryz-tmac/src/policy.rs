//! Memory policies: who may have memory, and on which pages and nodes it lies.
//!
//! A policy is asked when the arena maps memory from the system (a large buffer, a pool, or a region for small ones), which
//! happens while an engine is laid out and never inside a step.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{BufferKind, HugePages, NodePlacement, NodeSet};

/// A stretch of memory that the arena is about to map, or has given back.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryRequest<'a> {
    /// Bytes.
    pub bytes: usize,
    /// What they are for.
    pub kind: BufferKind,
    /// Whose they are (see [`Arena::labelled`](crate::Arena::labelled)); empty for regions that several share.
    pub owner: &'a str,
}

/// Where memory is to lie; what is `None` is left to the arena's own options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacementRequest {
    /// On which pages.
    pub huge_pages: Option<HugePages>,
    /// On which nodes.
    pub nodes: Option<NodePlacement>,
}

/// Decides about memory before it is mapped. May be asked from several threads.
pub trait MemoryPolicy: Send + Sync {
    /// Where the memory is to lie.
    ///
    /// # Errors
    /// Why it is denied: the allocation fails with [`MemoryError::Denied`](crate::MemoryError::Denied).
    fn on_allocate(&self, request: &MemoryRequest<'_>) -> Result<PlacementRequest, String>;

    /// Memory that was granted has gone back to the system, or could not be had. Must not wait.
    fn on_free(&self, request: &MemoryRequest<'_>) {
        let _ = request;
    }
}

/// A policy that is shared.
#[derive(Clone)]
pub struct SharedPolicy(Arc<dyn MemoryPolicy>);

impl SharedPolicy {
    /// Shares a policy.
    pub fn new(policy: impl MemoryPolicy + 'static) -> Self {
        Self(Arc::new(policy))
    }

    pub(crate) fn get(&self) -> &dyn MemoryPolicy {
        &*self.0
    }
}

impl fmt::Debug for SharedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPolicy")
    }
}

/// The policies that come with the engine.
///
/// ```
/// use ryz_tmac::{Arena, ArenaConfig, BufferKind, BuiltInPolicy, SharedPolicy};
///
/// let config = ArenaConfig::default();
/// let arena = Arena::with_policy(config, SharedPolicy::new(BuiltInPolicy::limit(1 << 20)));
/// let denied = arena.allocate(2 << 20, BufferKind::Scratch).unwrap_err();
/// assert_eq!(denied.code(), "MEMORY_LIMIT");
/// ```
#[derive(Debug)]
pub struct BuiltInPolicy(Rule);

#[derive(Debug)]
enum Rule {
    Default,
    HugePages,
    Interleave(NodeSet),
    Limit { bytes: usize, granted: AtomicUsize },
}

impl BuiltInPolicy {
    /// Grants everything, and leaves it to the arena's options.
    pub fn allow() -> Self {
        Self(Rule::Default)
    }

    /// Explicit huge pages for everything that fills one, transparent ones where the system has none set apart.
    pub fn huge_pages() -> Self {
        Self(Rule::HugePages)
    }

    /// Pages in turns on these nodes.
    pub fn interleave(nodes: NodeSet) -> Self {
        Self(Rule::Interleave(nodes))
    }

    /// Denies what would pass `bytes` mapped bytes in all.
    pub fn limit(bytes: usize) -> Self {
        let granted = AtomicUsize::new(0);
        Self(Rule::Limit { bytes, granted })
    }
}

impl MemoryPolicy for BuiltInPolicy {
    fn on_allocate(&self, request: &MemoryRequest<'_>) -> Result<PlacementRequest, String> {
        let mut wish = PlacementRequest::default();
        match &self.0 {
            Rule::Default => {}
            Rule::HugePages => wish.huge_pages = Some(HugePages::Explicit),
            Rule::Interleave(nodes) => wish.nodes = Some(NodePlacement::Interleave(*nodes)),
            Rule::Limit { bytes, granted } => {
                let fits = |held: usize| {
                    let sum = held.checked_add(request.bytes)?;
                    (sum <= *bytes).then_some(sum)
                };
                granted
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                    .map_err(|held| format!("{held} of {bytes} bytes are mapped"))?;
            }
        }
        Ok(wish)
    }

    fn on_free(&self, request: &MemoryRequest<'_>) {
        if let Rule::Limit { granted, .. } = &self.0 {
            granted.fetch_sub(request.bytes, Ordering::Relaxed);
        }
    }
}

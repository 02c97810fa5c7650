//! Memory policies: which allocations are permitted, and on which pages and nodes.
//!
//! The arena consults a policy when it maps memory from the system (a large buffer, a pool, or a
//! region for small ones). This happens while an engine is set up, never inside a step.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{BufferKind, HugePages, NodePlacement, NodeSet};

/// A memory range that the arena is about to map, or has unmapped.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryRequest<'a> {
    /// Size in bytes.
    pub bytes: usize,
    /// Its kind.
    pub kind: BufferKind,
    /// The owner (see [`Arena::labelled`](crate::Arena::labelled)); empty for regions shared by
    /// several owners.
    pub owner: &'a str,
}

/// The requested placement; for `None`, the arena's own options apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacementRequest {
    /// The huge pages to use.
    pub huge_pages: Option<HugePages>,
    /// The nodes to use.
    pub nodes: Option<NodePlacement>,
}

/// Decides about memory before it is mapped. May be called from several threads.
pub trait MemoryPolicy: Send + Sync {
    /// The placement of the memory.
    ///
    /// # Errors
    /// The reason for denial: the allocation fails with
    /// [`MemoryError::Denied`](crate::MemoryError::Denied).
    fn on_allocate(&self, request: &MemoryRequest<'_>) -> Result<PlacementRequest, String>;

    /// Reports that granted memory was unmapped or could not be mapped. Must not block.
    fn on_free(&self, request: &MemoryRequest<'_>) {
        let _ = request;
    }
}

/// A shared policy.
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

/// The engine's built-in policies.
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
    /// Grants everything, with the arena's options.
    pub fn allow() -> Self {
        Self(Rule::Default)
    }

    /// Explicit huge pages for everything that fills one; transparent ones where the system has
    /// none reserved.
    pub fn huge_pages() -> Self {
        Self(Rule::HugePages)
    }

    /// Interleaves pages over these nodes.
    pub fn interleave(nodes: NodeSet) -> Self {
        Self(Rule::Interleave(nodes))
    }

    /// Denies allocations that would exceed `bytes` mapped bytes in total.
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

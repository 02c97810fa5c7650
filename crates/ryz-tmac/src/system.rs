//! Mappings of system memory: pages, huge pages, nodes.

use std::{io, ptr::NonNull};

use memmap2::MmapMut;

use crate::{BufferKind, Fallback, HugePages, MemoryError, NodePlacement, NodeSet, poison};

/// Bytes per huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Bytes per page.
pub(crate) fn page_size() -> usize {
    #[cfg(unix)]
    {
        rustix::param::page_size()
    }
    #[cfg(not(unix))]
    {
        4096
    }
}

/// Returns the C library's freed small blocks to the system, where supported. An engine's freed
/// memory stays scattered over the heaps of the threads that loaded it, so a process that loads and
/// disposes of thousands of engines would grow. Takes about a millisecond; callable from any
/// thread.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the call takes no pointers and locks the heaps that it inspects.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Zeroed system memory, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    _map: MmapMut,
    start: NonNull<u8>,
    len: usize,
    /// The pages provided, which may be less than requested.
    huge_pages: HugePages,
    nodes: NodePlacement,
    fallbacks: Vec<Fallback>,
}

// SAFETY: only this value owns the bytes (`start` points into `_map`), and any thread may unmap
// them.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives no access to the bytes, only their address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (not 0), aligned to `align` (a power of two).
    pub fn new(
        len: usize,
        align: usize,
        asked: HugePages,
        nodes: NodePlacement,
        kind: BufferKind,
    ) -> Result<Self, MemoryError> {
        let out_of_memory = || MemoryError::OutOfMemory {
            kind,
            requested: len,
        };
        let mut fallbacks = Vec::new();
        let mut huge_pages = if len < HUGE_PAGE {
            HugePages::Off
        } else {
            asked
        };
        let mut explicit = None;
        if huge_pages == HugePages::Explicit {
            match map_explicit(len, align) {
                Ok(map) => explicit = Some(map),
                Err(error) => {
                    huge_pages = HugePages::Transparent;
                    fallbacks.push(Fallback {
                        wanted: "explicit huge pages".to_owned(),
                        got: "transparent huge pages".to_owned(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        // Kernels before 6.7 give no huge pages to a mapping that is not aligned to them.
        let align = match huge_pages {
            HugePages::Off => align,
            _ => align.max(HUGE_PAGE),
        };
        let mut map = match explicit {
            Some(map) => map,
            None => {
                let spare = if align > page_size() { align } else { 0 };
                let mapped = len.checked_add(spare).ok_or_else(out_of_memory)?;
                MmapMut::map_anon(mapped).map_err(|_| out_of_memory())?
            }
        };
        let first = map.as_mut_ptr();
        let offset = first.addr().next_multiple_of(align) - first.addr();
        let start = NonNull::new(first.wrapping_add(offset)).ok_or_else(out_of_memory)?;
        if huge_pages == HugePages::Transparent {
            // Only for completely filled pages: the remainder would make up to 2 MiB resident for a
            // few bytes. This is advice: a system without huge pages refuses it without harm.
            #[cfg(target_os = "linux")]
            let _ = map.advise_range(
                memmap2::Advice::HugePage,
                offset,
                len / HUGE_PAGE * HUGE_PAGE,
            );
        }
        let mut mapping = Self {
            _map: map,
            start,
            len,
            huge_pages,
            nodes,
            fallbacks,
        };
        mapping.place(kind)?;
        Ok(mapping)
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    pub fn placement(&self) -> NodePlacement {
        self.nodes
    }

    /// Requests that could not be met.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// Bytes per page; for transparent huge pages, the base page size.
    pub fn page_bytes(&self) -> usize {
        match self.huge_pages {
            HugePages::Explicit => HUGE_PAGE,
            _ => page_size(),
        }
    }

    /// Places its pages on the requested nodes, before any is touched.
    fn place(&mut self, kind: BufferKind) -> Result<(), MemoryError> {
        let (interleave, nodes) = match self.nodes {
            NodePlacement::FirstTouch => return Ok(()),
            NodePlacement::Bind(nodes) => (false, nodes),
            NodePlacement::Interleave(nodes) => (true, nodes),
        };
        let len = self.len.next_multiple_of(self.page_bytes());
        match place_pages(self.start.as_ptr(), len, interleave, nodes) {
            Ok(()) => Ok(()),
            // A system without nodes, or a container without permission.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                ) =>
            {
                self.fallbacks.push(Fallback {
                    wanted: self.nodes.to_string(),
                    got: NodePlacement::FirstTouch.to_string(),
                    reason: error.to_string(),
                });
                self.nodes = NodePlacement::FirstTouch;
                Ok(())
            }
            Err(source) => Err(MemoryError::InvalidNodes {
                kind,
                nodes,
                source,
            }),
        }
    }

    /// Memory nodes of its pages, sampled at up to 64 pages spread over it. Empty if no page is
    /// resident yet, or if the system does not report them.
    pub fn nodes(&self) -> NodeSet {
        let pages = self.len.div_ceil(self.page_bytes());
        let step = pages.div_ceil(64).max(1);
        let pages: Vec<*mut u8> = (0..pages)
            .step_by(step)
            .map(|page| self.start.as_ptr().wrapping_add(page * self.page_bytes()))
            .collect();
        nodes_of(&pages)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        poison::open(self.start, self.len);
    }
}

/// Returns the whole pages in a range to the system; they read as zeros when touched again. Returns
/// the released part of the range, as offset and length; `None` if the system does not support it.
///
/// # Safety
/// The bytes lie in an anonymous private mapping whose pages have `page` bytes, and no reference to
/// them exists.
pub(crate) unsafe fn discard(
    start: NonNull<u8>,
    len: usize,
    page: usize,
) -> Option<(usize, usize)> {
    let first = start.addr().get();
    let from = first.checked_next_multiple_of(page)?;
    let to = (first + len) / page * page;
    if from >= to {
        return None;
    }
    #[cfg(target_os = "linux")]
    {
        let (offset, len) = (from - first, to - from);
        let at = start.as_ptr().wrapping_add(offset);
        // SAFETY: the pages are whole and lie in our own mapping, whose contents are unused
        // (guaranteed by the caller).
        let result = unsafe { libc::madvise(at.cast(), len, libc::MADV_DONTNEED) };
        (result == 0).then_some((offset, len))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(target_os = "linux")]
fn map_explicit(len: usize, align: usize) -> io::Result<MmapMut> {
    if align > HUGE_PAGE {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // It is also unmapped in whole pages.
    let len = len.checked_next_multiple_of(HUGE_PAGE);
    memmap2::MmapOptions::new()
        .len(len.ok_or(io::ErrorKind::OutOfMemory)?)
        .huge(Some(HUGE_PAGE.ilog2() as u8))
        .map_anon()
}

#[cfg(not(target_os = "linux"))]
fn map_explicit(_: usize, _: usize) -> io::Result<MmapMut> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `mbind` (linux/mempolicy.h). Called only if nodes are requested.
#[cfg(target_os = "linux")]
fn place_pages(start: *mut u8, len: usize, interleave: bool, nodes: NodeSet) -> io::Result<()> {
    let mode = if interleave {
        libc::MPOL_INTERLEAVE
    } else {
        libc::MPOL_BIND
    };
    let mask = [nodes.bits(), 0];
    // The call reads one bit less than the given count.
    let bits = NodeSet::MAX + 1;
    // SAFETY: the call changes the placement of our own mapping's pages, not their contents, and
    // reads at most `bits` bits of the mask, which has more.
    let result =
        unsafe { libc::syscall(libc::SYS_mbind, start, len, mode, &raw const mask, bits, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(not(target_os = "linux"))]
fn place_pages(_: *mut u8, _: usize, _: bool, _: NodeSet) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `move_pages` without targets, which only queries.
#[cfg(target_os = "linux")]
fn nodes_of(pages: &[*mut u8]) -> NodeSet {
    let mut found = vec![-1 as libc::c_int; pages.len()];
    // SAFETY: without targets, the call reads the addresses and writes the same number of results.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as libc::c_int,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<libc::c_int>(),
            found.as_mut_ptr(),
            0 as libc::c_int,
        )
    };
    if result != 0 {
        return NodeSet::default();
    }
    // Negative: the page is not resident.
    found
        .into_iter()
        .filter_map(|node| usize::try_from(node).ok())
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn nodes_of(_: &[*mut u8]) -> NodeSet {
    NodeSet::default()
}

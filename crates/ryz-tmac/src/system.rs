//! Mappings of the system's memory: pages, huge pages, nodes.

use std::{io, ptr::NonNull};

use memmap2::MmapMut;

use crate::{BufferKind, Fallback, HugePages, MemoryError, NodePlacement, NodeSet, poison};

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Bytes of a page.
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

/// Gives the system back what the C library keeps of small blocks that were freed; nothing where it has no such call. What an engine
/// frees lies scattered over the heaps of the threads that loaded it, where it would stay: for a process that loads and
/// disposes of thousands of engines that is growth. Takes a millisecond or so; any thread may call it.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the call takes no memory from its caller, and locks the heaps that it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Zeroed memory of the system's, unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    _map: MmapMut,
    start: NonNull<u8>,
    len: usize,
    /// What it was given, which may be less than was asked.
    huge_pages: HugePages,
    nodes: NodePlacement,
    fallbacks: Vec<Fallback>,
}

// SAFETY: the bytes are owned by this value alone (`start` points into `_map`), and any thread may unmap them.
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
        // Kernels before 6.7 give no huge page to a mapping that does not lie on their bounds.
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
            // Only pages that are filled: what is left over would be up to 2 MiB resident for a few bytes. It is advice: a
            // system without huge pages says no, and nothing is lost.
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

    /// What was asked for and could not be had.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// Bytes of a page of it; of transparent huge ones, what the system falls back to.
    pub fn page_bytes(&self) -> usize {
        match self.huge_pages {
            HugePages::Explicit => HUGE_PAGE,
            _ => page_size(),
        }
    }

    /// Puts its pages on the nodes asked for, before any is touched.
    fn place(&mut self, kind: BufferKind) -> Result<(), MemoryError> {
        let (interleave, nodes) = match self.nodes {
            NodePlacement::FirstTouch => return Ok(()),
            NodePlacement::Bind(nodes) => (false, nodes),
            NodePlacement::Interleave(nodes) => (true, nodes),
        };
        let len = self.len.next_multiple_of(self.page_bytes());
        match place_pages(self.start.as_ptr(), len, interleave, nodes) {
            Ok(()) => Ok(()),
            // A system without nodes, or a container that may not choose.
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

    /// On which nodes pages of it lie: up to 64 of them are looked up, spread over it. Empty when none is there yet, or
    /// the system does not say.
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

/// Gives the whole pages in a range back to the system, which has them zeroed when they are touched again: the part of
/// the range that was given back, as offset and length; `None` where the system takes none.
///
/// # Safety
/// The bytes lie in an anonymous private mapping whose pages have `page` bytes, and no one holds a reference to them.
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
        // SAFETY: the pages are whole and lie in a mapping of ours whose contents are no one's (promised).
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
    // It is unmapped in whole pages, too.
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

/// `mbind` (linux/mempolicy.h). Only whoever asks for a node comes here.
#[cfg(target_os = "linux")]
fn place_pages(start: *mut u8, len: usize, interleave: bool, nodes: NodeSet) -> io::Result<()> {
    let mode = if interleave {
        libc::MPOL_INTERLEAVE
    } else {
        libc::MPOL_BIND
    };
    let mask = [nodes.bits(), 0];
    // The call reads one bit less than it is told.
    let bits = NodeSet::MAX + 1;
    // SAFETY: the call changes where the pages of a mapping of ours lie and not what is in them, and reads `bits` bits of
    // the mask, which has more.
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

/// `move_pages` without targets: asks and moves nothing.
#[cfg(target_os = "linux")]
fn nodes_of(pages: &[*mut u8]) -> NodeSet {
    let mut found = vec![-1 as libc::c_int; pages.len()];
    // SAFETY: without targets the call reads the addresses and writes as many numbers.
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
    // Below zero: a page that is not there.
    found
        .into_iter()
        .filter_map(|node| usize::try_from(node).ok())
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn nodes_of(_: &[*mut u8]) -> NodeSet {
    NodeSet::default()
}

//! The memory layout of an arena, as data, as text and as JSON.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use crate::{BufferKind, HugePages, MemoryStats, NodePlacement, NodeSet};

/// A snapshot of an arena's layout.
///
/// ```
/// use ryz_tmac::{Arena, ArenaConfig, BufferKind};
///
/// let arena = Arena::new(ArenaConfig::default());
/// let _norm = arena.labelled("output_norm").allocate(1000, BufferKind::Weights)?;
/// let layout = arena.layout();
/// assert_eq!(layout.regions[0].blocks[0].owner, "output_norm");
/// assert!(layout.to_string().contains("output_norm"));
/// # Ok::<(), ryz_tmac::MemoryError>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MemoryLayout {
    /// The memory statistics.
    pub stats: MemoryStats,
    /// Bytes per system page.
    pub page_size: usize,
    /// Sorted by address.
    pub regions: Vec<RegionLayout>,
    /// Files mapped in place.
    pub files: Vec<FileLayout>,
    /// Buffers whose owner divides them into movable pages; the owner adds them, because the arena
    /// does not know them.
    pub paged: Vec<PagedLayout>,
}

/// How a region's memory is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RegionUse {
    /// One large buffer.
    Buffer,
    /// Blocks of a size class.
    Chunk,
    /// Reserved blocks.
    Pool,
    /// A cleared pool, which exists only for its blocks in use.
    ClosedPool,
}

impl RegionUse {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Chunk => "chunk",
            Self::Pool => "pool",
            Self::ClosedPool => "closed-pool",
        }
    }
}

/// One mapping of the system's memory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RegionLayout {
    /// Start address.
    pub address: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// The kind of its blocks.
    pub kind: BufferKind,
    /// How it is allocated.
    pub used_as: RegionUse,
    /// Bytes per block, including padding.
    pub block_bytes: usize,
    /// Maximum number of blocks.
    pub capacity: usize,
    /// Bytes per page; for transparent huge pages, the base page size.
    pub page_bytes: usize,
    /// Its huge pages; off for regions smaller than one.
    pub huge_pages: HugePages,
    /// The placement rule of its pages.
    pub placement: NodePlacement,
    /// Memory nodes of its pages; empty if no page was touched, or if the system does not report
    /// them.
    pub nodes: NodeSet,
    /// Requests that could not be met.
    pub fallbacks: Vec<Fallback>,
    /// Blocks in use, sorted by address.
    pub blocks: Vec<BlockLayout>,
    /// Runs of free blocks, sorted by address.
    pub holes: Vec<Hole>,
}

/// A block in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BlockLayout {
    /// Start address.
    pub address: usize,
    /// Requested bytes, in whole lines.
    pub bytes: usize,
    /// The owner; see [`Arena::labelled`](crate::Arena::labelled).
    pub owner: String,
}

/// Free memory between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Hole {
    /// Start address.
    pub address: usize,
    /// Size in bytes.
    pub bytes: usize,
}

impl Hole {
    /// A run of free memory.
    pub fn new(address: usize, bytes: usize) -> Self {
        Self { address, bytes }
    }
}

/// A request that could not be met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Fallback {
    /// The request.
    pub wanted: String,
    /// What was provided instead.
    pub got: String,
    /// The system's reason.
    pub reason: String,
}

/// A mapped file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FileLayout {
    /// The file.
    pub path: PathBuf,
    /// Start address.
    pub address: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A buffer in pages that its owner can move.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PagedLayout {
    /// The owner.
    pub owner: String,
    /// Start address.
    pub address: usize,
    /// Bytes per page.
    pub page_bytes: usize,
    /// Total pages.
    pub capacity: usize,
    /// Pages in use.
    pub live: usize,
    /// Fraction of free pages among those up to the last one in use: 0 to 1.
    pub fragmentation: f64,
    /// Pages moved so far.
    pub moved: u64,
    /// Runs of free pages, sorted by address.
    pub holes: Vec<Hole>,
}

impl MemoryLayout {
    /// JSON with camelCase names.
    pub fn to_json(&self) -> String {
        // Numbers and strings with fixed names always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Bytes in human-readable form.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let power = (self.0.ilog2() as usize / 10).min(units.len());
        let value = self.0 as f64 / (1u64 << (10 * power)) as f64;
        f.pad(&format!("{value:.1} {}", units[power - 1]))
    }
}

impl fmt::Display for MemoryLayout {
    /// One line per region, with indented lines for its blocks and holes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        write!(
            f,
            "{} in use by {} buffers, {} pooled, {} mapped in {} regions; at most {}, limit ",
            Bytes(stats.in_use),
            stats.buffers,
            Bytes(stats.pooled),
            Bytes(stats.mapped),
            self.regions.len(),
            Bytes(stats.high_water),
        )?;
        match stats.limit {
            Some(limit) => write!(f, "{}", Bytes(limit))?,
            None => f.write_str("none")?,
        }
        writeln!(f, "; pages of {}", Bytes(self.page_size))?;
        for kind in BufferKind::ALL {
            writeln!(f, "  {:<9} {:>11}", kind.name(), Bytes(stats.of(kind)))?;
        }
        for region in &self.regions {
            write!(f, "\n{region}")?;
        }
        for FileLayout {
            path,
            address,
            bytes,
        } in &self.files
        {
            let bytes = Bytes(*bytes);
            writeln!(
                f,
                "\n{address:#014x} {bytes:>11}  {}: mapped file",
                path.display()
            )?;
        }
        for paged in &self.paged {
            write!(f, "\n{paged}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RegionLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#014x} {:>11}  {:<9} {}: {} of {} blocks of {}, pages of {}",
            self.address,
            Bytes(self.bytes),
            self.kind.name(),
            self.used_as.name(),
            self.blocks.len(),
            self.capacity,
            Bytes(self.block_bytes),
            Bytes(self.page_bytes),
        )?;
        if self.huge_pages != HugePages::Off {
            write!(f, ", {} huge pages", self.huge_pages.name())?;
        }
        write!(f, ", {}", self.placement)?;
        match self.nodes.is_empty() {
            true => f.write_str(", not on a node yet")?,
            false => write!(f, ", on node {}", self.nodes)?,
        }
        writeln!(f)?;
        for fallback in &self.fallbacks {
            writeln!(
                f,
                "  wanted {}, got {}: {}",
                fallback.wanted, fallback.got, fallback.reason
            )?;
        }
        // Blocks and holes in one list, sorted by address.
        let blocks = self
            .blocks
            .iter()
            .map(|b| (b.address, b.bytes, b.owner.as_str()));
        let holes = self.holes.iter().map(|h| (h.address, h.bytes, "(free)"));
        let mut lines: Vec<_> = blocks.chain(holes).collect();
        lines.sort_unstable();
        for (address, bytes, owner) in lines {
            writeln!(f, "  {address:#014x} {:>11}  {owner}", Bytes(bytes))?;
        }
        Ok(())
    }
}

impl fmt::Display for PagedLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:#014x} {:>11}  {}: {} of {} pages of {}, fragmentation {:.2}, {} moved so far",
            self.address,
            Bytes(self.page_bytes * self.capacity),
            self.owner,
            self.live,
            self.capacity,
            Bytes(self.page_bytes),
            self.fragmentation,
            self.moved,
        )?;
        for hole in &self.holes {
            writeln!(
                f,
                "  {:#014x} {:>11}  (free)",
                hole.address,
                Bytes(hole.bytes)
            )?;
        }
        Ok(())
    }
}

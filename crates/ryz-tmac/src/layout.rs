//! What lies where in an arena, as data, as text and as JSON.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use crate::{BufferKind, HugePages, MemoryStats, NodePlacement, NodeSet};

/// A picture of an arena at one moment.
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
    /// The books.
    pub stats: MemoryStats,
    /// Bytes of the system's pages.
    pub page_size: usize,
    /// By address.
    pub regions: Vec<RegionLayout>,
    /// Files that are read in place.
    pub files: Vec<FileLayout>,
    /// Buffers whose owner divides them into pages that it moves; the arena knows of none, who does adds them.
    pub paged: Vec<PagedLayout>,
}

/// How a region's memory is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RegionUse {
    /// One large buffer.
    Buffer,
    /// Blocks of a size class.
    Chunk,
    /// Blocks held ready.
    Pool,
    /// A pool that was cleared, and is there for its blocks in use.
    ClosedPool,
}

impl RegionUse {
    /// The name in reports.
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
    /// Where it starts.
    pub address: usize,
    /// Its bytes.
    pub bytes: usize,
    /// What its blocks are for.
    pub kind: BufferKind,
    /// How it is handed out.
    pub used_as: RegionUse,
    /// Bytes of each of its blocks, padding included.
    pub block_bytes: usize,
    /// Blocks it has room for.
    pub capacity: usize,
    /// Bytes of its pages; of transparent huge pages, the smallest.
    pub page_bytes: usize,
    /// Huge pages it has; off for regions smaller than one.
    pub huge_pages: HugePages,
    /// By which rule its pages were placed.
    pub placement: NodePlacement,
    /// Memory nodes that pages of it lie on; none where no page was touched, or the system does not say.
    pub nodes: NodeSet,
    /// What was asked for and could not be had.
    pub fallbacks: Vec<Fallback>,
    /// Blocks in use, by address.
    pub blocks: Vec<BlockLayout>,
    /// Runs of free blocks, by address.
    pub holes: Vec<Hole>,
}

/// A block in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BlockLayout {
    /// Where it starts.
    pub address: usize,
    /// Bytes asked for, in whole lines.
    pub bytes: usize,
    /// Whose it is; see [`Arena::labelled`](crate::Arena::labelled).
    pub owner: String,
}

/// Free memory between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Hole {
    /// Where it starts.
    pub address: usize,
    /// Its bytes.
    pub bytes: usize,
}

impl Hole {
    /// Free memory.
    pub fn new(address: usize, bytes: usize) -> Self {
        Self { address, bytes }
    }
}

/// A wish that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Fallback {
    /// What was asked for.
    pub wanted: String,
    /// What there is instead.
    pub got: String,
    /// What the system said.
    pub reason: String,
}

/// A mapped file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FileLayout {
    /// The file.
    pub path: PathBuf,
    /// Where it starts.
    pub address: usize,
    /// Its bytes.
    pub bytes: usize,
}

/// A buffer in pages that its owner may move.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PagedLayout {
    /// Whose it is.
    pub owner: String,
    /// Where it starts.
    pub address: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages in all.
    pub capacity: usize,
    /// Pages in use.
    pub live: usize,
    /// Which part of the pages up to the last one in use is free: 0 to 1.
    pub fragmentation: f64,
    /// Pages moved so far.
    pub moved: u64,
    /// Runs of free pages, by address.
    pub holes: Vec<Hole>,
}

impl MemoryLayout {
    /// As JSON, with names in camel case.
    pub fn to_json(&self) -> String {
        // Numbers and strings with fixed names: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Bytes as a person reads them.
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
    /// A line for each region, indented ones for its blocks and holes.
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
        // Blocks and holes in one list, by address.
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

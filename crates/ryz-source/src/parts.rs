//! Files whose headers are read from a prefix as long as needed.

use std::path::Path;

use ryz_format::{Description, FormatError, Metadata, Overrides, SplitInfo, part_paths};
use ryz_tmac::{InputFile, MemoryError};

use crate::{SourceError, error::at};

/// Bytes of a header's first read; while they do not hold the whole header, the read is repeated
/// with twice the length.
const FIRST_READ: usize = 1 << 20;

/// The metadata of a GGUF file of any architecture, with overrides applied.
///
/// # Errors
/// [`SourceError::Read`], [`SourceError::Format`], [`SourceError::Overrides`].
pub fn gguf_metadata(path: &Path, overrides: &Overrides) -> Result<Metadata, SourceError> {
    let (_, mut header) = open_part(path, Description::parse)?;
    let applied = overrides.apply(&mut header.metadata);
    applied.map_err(SourceError::Overrides)?;
    Ok(header.metadata)
}

pub(crate) fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Opens a file, and all parts if it is one of a split model.
pub(crate) fn open_parts<H>(
    path: &Path,
    parse: impl Fn(&[u8], u64) -> Result<H, FormatError> + Copy,
    metadata: impl Fn(&H) -> &Metadata,
) -> Result<(Vec<InputFile>, Vec<H>), SourceError> {
    let (file, part) = open_part(path, parse)?;
    let Some(split) = SplitInfo::from_metadata(metadata(&part)).map_err(at(path))? else {
        return Ok((vec![file], vec![part]));
    };
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let beside = names_in(folder.unwrap_or(Path::new(".")));
    let paths = part_paths(path, &split, beside).map_err(at(path))?;
    let (mut files, mut parts) = (Vec::new(), Vec::new());
    for (index, part) in paths.iter().enumerate() {
        let (file, header) = match open_part(part, parse) {
            Err(SourceError::Read(MemoryError::FileNotFound { .. })) => {
                let name = |path: &Path| {
                    let name = path.file_name().unwrap_or_default();
                    name.to_string_lossy().into_owned()
                };
                return Err(at(path)(FormatError::MissingPart {
                    part: index + 1,
                    count: paths.len(),
                    name: name(part),
                    first: name(&paths[0]),
                }));
            }
            opened => opened?,
        };
        files.push(file);
        parts.push(header);
    }
    Ok((files, parts))
}

/// Opens one file and parses its header from a prefix as long as needed.
pub(crate) fn open_part<H>(
    path: &Path,
    parse: impl Fn(&[u8], u64) -> Result<H, FormatError>,
) -> Result<(InputFile, H), SourceError> {
    let file = InputFile::open(path)?;
    let mut prefix = Vec::new();
    let mut wanted = FIRST_READ;
    loop {
        let have = prefix.len();
        let len = usize::try_from(file.len())
            .unwrap_or(usize::MAX)
            .min(wanted);
        prefix.resize(len, 0);
        file.read_at(have as u64, &mut prefix[have..])?;
        match parse(&prefix, file.len()) {
            Ok(header) => return Ok((file, header)),
            Err(error) if error.is_incomplete() && (prefix.len() as u64) < file.len() => {
                wanted = wanted.saturating_mul(2);
            }
            Err(error) => return Err(at(path)(error)),
        }
    }
}

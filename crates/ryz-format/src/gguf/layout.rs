//! Each tensor's location, type and size, and the checks that it lies inside the file without
//! overlaps.

use super::types::{GgmlType, STQ1_0, type_name};
use crate::{DType, FormatError};

/// A tensor's location in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, at most 64 bytes.
    pub name: String,
    /// How the elements are stored; distinguishes the two layouts of `Q2_0`.
    pub dtype: DType,
    /// The product of all dimensions except the first; 1 for a vector.
    pub rows: usize,
    /// The first dimension, along which elements are contiguous.
    pub cols: usize,
    /// All dimensions in the file's order, contiguous dimension first.
    pub shape: Vec<u64>,
    /// Offset of the data in bytes from the start of the file.
    pub offset: u64,
    /// Size of the data, with the tail of `I2_S` and without padding.
    pub bytes: u64,
    /// Index of the file in a split model, from 0.
    pub shard: usize,
}

/// A raw tensor info from the header.
pub(super) struct RawTensor<'a> {
    pub name: &'a str,
    pub rank: usize,
    pub dims: [u64; 4],
    pub type_id: u32,
    /// Offset from the start of the data section.
    pub offset: u64,
}

/// `Q2_0`: two layouts with the same type id.
const Q2_0: u32 = 42;

/// Resolves the types and sizes of all tensors, and checks that they fit.
pub(super) fn place(
    raw: &[RawTensor<'_>],
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo>, FormatError> {
    let data_len = file_len.saturating_sub(data_start);
    check_names(raw)?;

    // Sorted by offset, each tensor has the bytes up to the next one.
    let mut by_offset: Vec<u32> = (0..raw.len() as u32).collect();
    by_offset.sort_by_key(|&i| raw[i as usize].offset);
    let mut room = vec![0; raw.len()];
    for (n, &i) in by_offset.iter().enumerate() {
        let tensor = &raw[i as usize];
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(FormatError::Misaligned {
                name: tensor.name.to_owned(),
                alignment,
                offset: tensor.offset,
            });
        }
        let end = by_offset
            .get(n + 1)
            .map_or(data_len, |&next| raw[next as usize].offset);
        room[i as usize] = end.saturating_sub(tensor.offset);
    }
    let last = by_offset.last().map(|&i| i as usize);
    let q2_0 = q2_layout(raw, &room, last, alignment)?;

    let mut tensors = Vec::with_capacity(raw.len());
    for tensor in raw {
        tensors.push(info(tensor, q2_0, data_start)?);
    }
    // The length of the complete file, reported for truncated ones.
    let ends = tensors
        .iter()
        .map(|tensor| tensor.offset.saturating_add(tensor.bytes));
    let needed = ends.max().unwrap_or(0);
    if let Some(out) = (tensors.iter()).find(|tensor| {
        tensor
            .offset
            .checked_add(tensor.bytes)
            .is_none_or(|end| end > file_len)
    }) {
        return Err(FormatError::OutOfFile {
            name: out.name.clone(),
            offset: out.offset - data_start,
            bytes: out.bytes,
            file_len,
            needed,
        });
    }
    for pair in by_offset.windows(2) {
        let (earlier, later) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if earlier.offset + earlier.bytes > later.offset {
            return Err(FormatError::Overlap {
                name: later.name.clone(),
                other: earlier.name.clone(),
            });
        }
    }
    Ok(tensors)
}

fn check_names(raw: &[RawTensor<'_>]) -> Result<(), FormatError> {
    let mut names: Vec<&str> = raw.iter().map(|tensor| tensor.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(FormatError::DuplicateTensor {
            name: pair[0].to_owned(),
        }),
        None => Ok(()),
    }
}

/// One tensor, regardless of its location.
fn info(tensor: &RawTensor<'_>, q2_0: DType, data_start: u64) -> Result<TensorInfo, FormatError> {
    let name = tensor.name.to_owned();
    let dtype = match tensor.type_id {
        Q2_0 => q2_0,
        id => match DType::ALL
            .into_iter()
            .chain(DType::PREPACKED)
            .find(|dtype| dtype.gguf_id() == Some(id))
        {
            Some(dtype) => dtype,
            None => return Err(unsupported(tensor.name, type_name(id))),
        },
    };
    let (rows, cols) = tensor.rows_and_cols()?;
    let Some(bytes) = dtype.tensor_bytes(rows, cols) else {
        return Err(FormatError::BadShape {
            name,
            expected: format!("rows of whole {dtype} blocks of {}", dtype.block_values()),
            got: tensor.shape_text(),
        });
    };
    Ok(TensorInfo {
        name,
        dtype,
        rows,
        cols,
        shape: tensor.dims[..tensor.rank].to_vec(),
        offset: data_start.saturating_add(tensor.offset),
        bytes,
        shard: 0,
    })
}

/// An unsupported type, and the supported ones.
pub(super) fn unsupported(name: &str, got: String) -> FormatError {
    let mut expected: Vec<&str> = DType::ALL
        .iter()
        .filter(|dtype| dtype.gguf_id().is_some_and(|id| id != Q2_0))
        .map(|dtype| dtype.name())
        .collect();
    expected.push("Q2_0");
    FormatError::UnsupportedType {
        name: name.to_owned(),
        expected: expected.join(", "),
        got,
    }
}

/// Decides the layout of the file's `Q2_0` tensors: the one in which every tensor fills the space
/// up to the next one exactly, except for padding. The last tensor may be followed by other bytes,
/// so an exact fit of it is required only if nothing else decides. It may also be truncated, in
/// which case only the others decide.
fn q2_layout(
    raw: &[RawTensor<'_>],
    room: &[u64],
    last: Option<usize>,
    alignment: u64,
) -> Result<DType, FormatError> {
    let layouts = [DType::Q2_0G64, DType::Q2_0G128];
    let mut fits = [true; 2];
    let mut fills = [true; 2];
    let mut subject = None;
    let mut sherry = true;
    for (i, tensor) in raw
        .iter()
        .enumerate()
        .filter(|(_, tensor)| tensor.type_id == Q2_0)
    {
        let (rows, cols) = tensor.rows_and_cols()?;
        let is_last = last == Some(i);
        let padded = |bytes: u64| {
            bytes
                .checked_next_multiple_of(alignment)
                .unwrap_or(u64::MAX)
        };
        // The padding after the last tensor may be missing.
        let exact = |bytes: u64| padded(bytes) == room[i] || (is_last && bytes == room[i]);
        let of_sherry = STQ1_0.tensor_bytes(rows as u64, cols as u64);
        let is_sherry = of_sherry.is_some_and(exact);
        let sizes = layouts.map(|layout| layout.tensor_bytes(rows, cols));
        let least = sizes.into_iter().flatten().min();
        let is_cut = is_last && !is_sherry && least.is_some_and(|least| room[i] < least);
        if is_cut {
            if subject.is_none() {
                // Nothing else decides: with either layout, the file is truncated.
                let layout = if sizes[1].is_some() { 1 } else { 0 };
                return Ok(layouts[layout]);
            }
            continue;
        }
        sherry &= is_sherry;
        let before = fits;
        for (n, size) in sizes.into_iter().enumerate() {
            let Some(bytes) = size else {
                fits[n] = false;
                continue;
            };
            fills[n] &= exact(bytes);
            fits[n] &= exact(bytes) || (is_last && bytes <= room[i]);
        }
        // The error names the tensor that excluded the last layout or, failing that, the last
        // tensor that allows both.
        if before != [false; 2] {
            subject = Some((
                tensor.name,
                sizes.map(|size| size.map_or(0, padded)),
                room[i],
            ));
        }
    }
    let Some((name, [g64, g128], got)) = subject else {
        return Ok(DType::Q2_0G64);
    };
    match (fits, fills) {
        ([true, false], _) | ([true, true], [true, false]) => Ok(DType::Q2_0G64),
        ([false, true], _) | ([true, true], [false, true]) => Ok(DType::Q2_0G128),
        ([false, false], _) if sherry => Err(unsupported(
            name,
            format!("{} (id {Q2_0}, as Q2_0)", STQ1_0.name),
        )),
        (fits, _) => Err(FormatError::Q2Layout {
            name: name.to_owned(),
            g64,
            g128,
            got,
            verdict: if fits[0] { "fit both" } else { "fit neither" },
        }),
    }
}

impl RawTensor<'_> {
    /// Its size, if the type's blocks are known and have a fixed size.
    pub(super) fn bytes(&self) -> Option<u64> {
        let (rows, cols) = self.rows_and_cols().ok()?;
        let id = self.type_id;
        let known = DType::ALL.into_iter().filter(|_| id != Q2_0);
        match known
            .chain(DType::PREPACKED)
            .find(|dtype| dtype.gguf_id() == Some(id))
        {
            Some(dtype) => dtype.tensor_bytes(rows, cols),
            None => GgmlType::of_id(id)?.tensor_bytes(rows as u64, cols as u64),
        }
    }

    fn rows_and_cols(&self) -> Result<(usize, usize), FormatError> {
        let rows = self.dims[1..]
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim));
        // The number of elements must fit too, regardless of their size.
        let counts = rows.and_then(|rows| {
            rows.checked_mul(self.dims[0])?;
            Some((
                usize::try_from(rows).ok()?,
                usize::try_from(self.dims[0]).ok()?,
            ))
        });
        counts.ok_or_else(|| FormatError::BadShape {
            name: self.name.to_owned(),
            expected: "fewer than 2^64 elements".to_owned(),
            got: self.shape_text(),
        })
    }

    fn shape_text(&self) -> String {
        self.dims[..self.rank]
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" × ")
    }
}

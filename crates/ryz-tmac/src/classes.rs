//! Size classes: four per doubling, so that a block wastes less than a fifth of itself.

use crate::LINE;

/// Larger blocks, in lines, are separate mappings, whose pages return to the system when freed.
pub(crate) const MAX_LINES: usize = (128 << 10) / LINE;

/// Number of classes.
pub(crate) const COUNT: usize = class_of_lines(MAX_LINES) + 1;

/// The smallest page size.
const PAGE: usize = 4096;

/// Minimum and maximum bytes of a region divided into blocks.
const REGION: (usize, usize) = (64 << 10, 2 << 20);

/// The class of a block of `bytes` (a nonzero multiple of a line); `None` if it needs its own
/// mapping.
pub(crate) fn class_of(bytes: usize) -> Option<usize> {
    let lines = bytes / LINE;
    (lines <= MAX_LINES).then(|| class_of_lines(lines))
}

const fn class_of_lines(lines: usize) -> usize {
    if lines <= 4 {
        return lines - 1;
    }
    // 2^power < lines <= 2^(power + 1), in quarters.
    let power = (lines - 1).ilog2() as usize;
    let quarter = 1 << (power - 2);
    3 + 4 * (power - 2) + (lines - (1 << power)).div_ceil(quarter)
}

/// Bytes of a block of a class.
pub(crate) const fn block_bytes(class: usize) -> usize {
    if class < 4 {
        return (class + 1) * LINE;
    }
    let (power, quarters) = ((class - 4) / 4 + 2, (class - 4) % 4 + 1);
    ((1 << power) + quarters * (1 << (power - 2))) * LINE
}

/// The first class, from `class` on, whose blocks are all aligned to `align` (a power of two);
/// `None` if there is none, or if regions, which are page-aligned, are not.
pub(crate) fn aligned(class: usize, align: usize) -> Option<usize> {
    let classes = class..COUNT;
    classes
        .into_iter()
        .find(|&class| block_bytes(class).is_multiple_of(align))
        .filter(|_| align <= PAGE)
}

/// Number of blocks in a region of a class.
pub(crate) fn blocks_per_region(class: usize) -> usize {
    let block = block_bytes(class);
    (block * 32).next_power_of_two().clamp(REGION.0, REGION.1) / block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for lines in 1..=MAX_LINES {
            let bytes = lines * LINE;
            let class = class_of(bytes).unwrap();
            assert!(class < COUNT);
            assert!(block_bytes(class) >= bytes, "{lines} lines");
            assert!(
                class == 0 || block_bytes(class - 1) < bytes,
                "{lines} lines"
            );
            assert!(
                (block_bytes(class) - bytes) * 5 <= block_bytes(class),
                "{lines} lines"
            );
            assert!(blocks_per_region(class) >= 16);
        }
        assert_eq!(aligned(0, 4096).map(block_bytes), Some(4096));
        assert_eq!(aligned(0, 64), Some(0));
        assert_eq!(aligned(0, 8192), None);
        assert_eq!(class_of((MAX_LINES + 1) * LINE), None);
        assert_eq!(block_bytes(COUNT - 1), MAX_LINES * LINE);
    }
}

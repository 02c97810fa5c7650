//! Run-time access checks for storage that threads share: many readers, or many writers of
//! different positions.
//!
//! The forward pass alternates two phases separated by barriers: all threads write a layer's new
//! keys and values, then all read. These counters check that the phases never overlap and that no
//! two live writers hold the same position, which makes handing out the bytes sound.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU16, Ordering};

/// Live guards: positive = readers, negative = writers.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicI32);

impl Phase {
    pub fn enter_read(&self) {
        let before = self.0.fetch_add(1, Ordering::Acquire);
        assert!(
            before >= 0,
            "the key-value cache is read while it is written"
        );
    }

    pub fn leave_read(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    pub fn enter_write(&self) {
        let before = self.0.fetch_sub(1, Ordering::Acquire);
        assert!(
            before <= 0,
            "the key-value cache is written while it is read"
        );
    }

    pub fn leave_write(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// One bit for each position of a block: set while a writer holds it.
#[derive(Debug, Default)]
pub(crate) struct SlotClaims(AtomicU16);

impl SlotClaims {
    pub fn claim(&self, slots: &Range<usize>) {
        let mask = mask(slots);
        let before = self.0.fetch_or(mask, Ordering::Acquire);
        assert!(
            before & mask == 0,
            "two threads write the same position of the key-value cache"
        );
    }

    pub fn release(&self, slots: &Range<usize>) {
        self.0.fetch_and(!mask(slots), Ordering::Release);
    }
}

/// The bits of some positions of a block.
fn mask(slots: &Range<usize>) -> u16 {
    let below = |slot: usize| (1u32 << slot) - 1;
    (below(slots.end) & !below(slots.start)) as u16
}

const _: () = assert!(crate::BLOCK_TOKENS <= u16::BITS as usize);

//! The arena against a model of its books, and what its buffers promise.

use proptest::prelude::*;
use ryz_tmac::{Arena, ArenaConfig, Buffer, BufferKind, LINE, MemoryError};

const LIMIT: usize = 1 << 20;

proptest! {
    /// Random allocations and frees: every live buffer keeps its own bytes, the books agree with a plain sum, and the
    /// limit holds.
    #[test]
    fn books_and_bytes_agree_with_a_model(steps in prop::collection::vec((any::<bool>(), 0usize..400_000, 0usize..4), 1..60)) {
        let arena = Arena::new(ArenaConfig { limit: Some(LIMIT), ..ArenaConfig::default() });
        let mut live: Vec<(Buffer, u8)> = Vec::new();
        let mut high_water = 0;
        for (step, (allocate, size, pick)) in steps.into_iter().enumerate() {
            let in_use: usize = live.iter().map(|(buffer, _)| buffer.len().next_multiple_of(LINE)).sum();
            if allocate {
                let kind = BufferKind::ALL[pick];
                match arena.allocate(size, kind) {
                    Ok(mut buffer) => {
                        prop_assert!(in_use + size.next_multiple_of(LINE) <= LIMIT);
                        prop_assert_eq!(buffer.len(), size);
                        prop_assert_eq!(buffer.as_bytes().as_ptr() as usize % LINE, 0);
                        prop_assert!(buffer.as_bytes().iter().all(|&byte| byte == 0));
                        buffer.as_bytes_mut().fill(step as u8);
                        live.push((buffer, step as u8));
                    }
                    Err(MemoryError::LimitExceeded { in_use: told, limit, .. }) => {
                        prop_assert!(in_use + size.next_multiple_of(LINE) > LIMIT);
                        prop_assert_eq!((told, limit), (in_use, LIMIT));
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
            } else if !live.is_empty() {
                let (buffer, byte) = live.swap_remove(size % live.len());
                prop_assert!(buffer.as_bytes().iter().all(|&b| b == byte));
            }
            let in_use: usize = live.iter().map(|(buffer, _)| buffer.len().next_multiple_of(LINE)).sum();
            high_water = high_water.max(in_use);
            let stats = arena.stats();
            prop_assert_eq!(stats.in_use, in_use);
            prop_assert_eq!(stats.high_water, high_water);
            prop_assert_eq!(stats.buffers, live.len());
            prop_assert_eq!(stats.by_kind.iter().sum::<usize>(), in_use);
        }
    }
}

#[test]
fn impossible_sizes_are_typed_errors() {
    let arena = Arena::new(ArenaConfig::default());
    for bytes in [usize::MAX, usize::MAX - 63, isize::MAX as usize] {
        let error = arena.allocate(bytes, BufferKind::Weights).unwrap_err();
        assert_eq!(error.code(), "OUT_OF_MEMORY", "{bytes}: {error}");
    }
    assert!(
        arena
            .allocate_slice::<f32>(usize::MAX / 2, BufferKind::Weights)
            .is_err()
    );
    assert_eq!(arena.stats().in_use, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn freed_pages_go_back_to_the_system() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    const SIZE: usize = 256 << 20;
    let arena = Arena::new(ArenaConfig::default());
    let before = resident();
    let mut buffer = arena.allocate(SIZE, BufferKind::Weights).unwrap();
    buffer.as_bytes_mut().fill(1);
    assert!(resident() >= before + SIZE / 2);
    drop(buffer);
    assert!(resident() < before + SIZE / 4);
}

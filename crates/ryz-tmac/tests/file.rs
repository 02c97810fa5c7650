//! Files that are, are not, and stop being what they were.

use std::{fs, path::Path};

use ryz_tmac::{Arena, ArenaConfig, BufferKind, InputFile, MemoryError};

#[test]
fn ranges_are_read_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, (0..=255u8).collect::<Vec<_>>()).unwrap();
    let file = InputFile::open(&path).unwrap();
    assert_eq!(file.len(), 256);
    let arena = Arena::new(ArenaConfig::default());
    let buffer = file
        .read_range(100, 3, &arena, BufferKind::Staging)
        .unwrap();
    assert_eq!(buffer.as_bytes(), [100, 101, 102]);
    assert_eq!(file.map().unwrap()[255], 255);
}

#[test]
fn a_file_cut_while_open_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, vec![0; 1000]).unwrap();
    let file = InputFile::open(&path).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(600)
        .unwrap();
    let error = file.read_at(500, &mut [0; 500]).unwrap_err();
    assert!(
        matches!(
            error,
            MemoryError::ShortRead {
                offset: 500,
                expected: 500,
                got: 100,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_range_that_the_file_does_not_have_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, vec![1; 100]).unwrap();
    let file = InputFile::open(&path).unwrap();
    let arena = Arena::new(ArenaConfig::default());
    for (offset, len, there) in [
        (0, 101, 100),
        (40, usize::MAX, 60),
        (100, 1, 0),
        (u64::MAX, 2, 0),
        (u64::MAX - 1, usize::MAX, 0),
    ] {
        let error = file
            .read_range(offset, len, &arena, BufferKind::Staging)
            .unwrap_err();
        assert_eq!(error.code(), "IO");
        assert!(
            matches!(error, MemoryError::ShortRead { offset: at, expected, got, .. }
                if (at, expected, got) == (offset, len, there)),
            "{error}"
        );
    }
    assert_eq!(arena.stats().allocations, 0);
    for offset in [100, u64::MAX] {
        let none = file
            .read_range(offset, 0, &arena, BufferKind::Staging)
            .unwrap();
        assert!(none.is_empty(), "nothing can be read anywhere");
    }
}

#[test]
fn a_file_that_grows_is_read_as_it_was_when_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, [1; 10]).unwrap();
    let file = InputFile::open(&path).unwrap();
    fs::write(&path, [2; 20]).unwrap();
    assert_eq!(file.len(), 10);
    assert!(file.read_at(5, &mut [0; 6]).is_err());
}

#[test]
fn several_threads_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let data: Vec<u8> = (0..300_000u32).map(|i| (i * 31 % 251) as u8).collect();
    fs::write(&path, &data).unwrap();
    let file = InputFile::open(&path).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (file, data) = (&file, &data);
            scope.spawn(move || {
                for round in 0..50 {
                    let offset = (thread * 50 + round) * 1499;
                    let mut bytes = [0; 1500];
                    file.read_at(offset, &mut bytes).unwrap();
                    assert_eq!(bytes, data[offset as usize..][..1500]);
                }
            });
        }
    });
}

#[test]
fn advice_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, vec![9; 100_000]).unwrap();
    let file = InputFile::open(&path).unwrap();
    // Also ranges that make no sense: it is advice.
    for (from, to) in [
        (0, 100_000),
        (5, 5),
        (7, 3),
        (0, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        file.advise_done(from..to);
    }
    let mut bytes = [0; 100];
    file.read_at(99_900, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 100]);
}

#[test]
fn an_empty_file_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    fs::write(&path, []).unwrap();
    let file = InputFile::open(&path).unwrap();
    assert!(file.is_empty());
    file.read_at(0, &mut []).unwrap();
    assert!(file.map().unwrap().is_empty());
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| InputFile::open(path).unwrap_err();
    let missing = dir.path().join("missing");
    assert_eq!(error(&missing).code(), "FILE_NOT_FOUND");
    assert_eq!(
        error(&missing).to_string(),
        format!("{}: no such file", missing.display())
    );
    assert_eq!(error(&dir.path().join("a\0b")).code(), "IO");
    let found = |path: &Path| match error(path) {
        MemoryError::NotARegularFile { found, .. } => found,
        other => panic!("{other}"),
    };
    assert_eq!(found(dir.path()), "a directory");
    #[cfg(target_os = "linux")]
    {
        assert_eq!(found(Path::new("/dev/zero")), "a device");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(found(&socket), "a socket");
        // No one writes to it: opening it plainly would wait for ever.
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(found(&pipe), "a pipe");
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_broken_ones_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(InputFile::open(&link).unwrap_err().code(), "FILE_NOT_FOUND");
    fs::write(&target, [1, 2, 3]).unwrap();
    assert_eq!(InputFile::open(&link).unwrap().len(), 3);
}

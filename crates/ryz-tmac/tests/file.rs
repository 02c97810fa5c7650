//! Files that are, are not, and stop being what they were.

use std::fs;

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
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let code = |path: &std::path::Path| InputFile::open(path).unwrap_err().code();
    assert_eq!(code(&dir.path().join("missing")), "FILE_NOT_FOUND");
    assert_eq!(code(dir.path()), "IO");
    #[cfg(unix)]
    assert_eq!(code(std::path::Path::new("/dev/zero")), "IO");
}

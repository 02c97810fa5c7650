//! Files appear whole under their names, with the umask's mode, and what a killed writer left goes.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ryz_files::{OutputFile, OverwritePolicy, write_file};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_that_is_dropped_leaves_nothing_and_the_old_one_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out");
    write_file(&path, b"old").expect("written");
    let mut output = OutputFile::create(&path).expect("made");
    output.write_all(b"half").expect("written");
    assert_eq!(names(folder.path()).len(), 2);
    drop(output);
    assert_eq!(names(folder.path()), ["out"]);
    assert_eq!(fs::read(&path).expect("read"), b"old");
}

#[test]
fn a_file_is_replaced_or_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out");
    assert_eq!(write_file(&path, b"first").expect("written"), 5);
    assert_eq!(write_file(&path, b"second").expect("written"), 6);
    let mut output = OutputFile::create(&path).expect("made");
    output.write_all(b"third").expect("written");
    let error = output
        .commit(OverwritePolicy::Keep)
        .expect_err("there is one");
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).expect("read"), b"second");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn what_nobody_writes_any_more_is_removed_and_what_is_being_written_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let left = folder.path().join(".ryzanstein-AbandonedFile.part");
    fs::write(&left, "left").expect("written");
    let others = [
        ".ryzanstein-notes.txt",
        "x.part",
        ".ryzanstein-.part",
        ".ryzanstein-a b.part",
    ];
    for other in others {
        fs::write(folder.path().join(other), "mine").expect("written");
    }
    let open = OutputFile::create(&folder.path().join("a")).expect("made");
    assert!(!left.exists());
    let second = OutputFile::create(&folder.path().join("b")).expect("made");
    assert!(open.temporary_path().exists() && second.temporary_path().exists());
    open.commit(OverwritePolicy::Keep).expect("renamed");
    drop(second);
    let mut expected = others.to_vec();
    expected.push("a");
    expected.sort_unstable();
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn temporary_names_differ_and_are_long() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = || {
        let file = OutputFile::create(&folder.path().join("out")).expect("made");
        file.temporary_path().to_owned()
    };
    let (first, second) = (name(), name());
    assert_ne!(first, second);
    assert!(first.as_os_str().len() - folder.path().as_os_str().len() > 30);
}

#[cfg(unix)]
#[test]
fn the_mode_is_the_umask_s_and_a_link_is_replaced_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain");
    fs::write(&plain, "made by the standard library").expect("written");
    let path = folder.path().join("out");
    write_file(&path, b"ours").expect("written");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode(&path), mode(&plain));

    let link = folder.path().join("link");
    symlink(&plain, &link).expect("linked");
    write_file(&link, b"new").expect("written");
    assert!(fs::symlink_metadata(&link).expect("there").is_file());
    assert_eq!(
        fs::read(&plain).expect("read"),
        b"made by the standard library"
    );
    // A link that looks like a temporary file is none.
    let trap = folder.path().join(".ryzanstein-Trap.part");
    symlink(&plain, &trap).expect("linked");
    write_file(&path, b"again").expect("written");
    assert!(plain.exists() && fs::symlink_metadata(&trap).is_ok());
}

#[test]
fn a_folder_that_is_not_there_is_named_by_what_was_tried() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = OutputFile::create(&folder.path().join("none/out")).expect_err("no folder");
    assert_eq!(error.to_string(), "cannot create a file in its folder");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}

//! The second reference set: tensor types of Prism ML, activations by key, biases of q, k and v, a real vocabulary.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Golden, Runner, Setup,
    goldens::{check_float, check_int8},
    ids,
};
use ryz_kernels::{Level, Packing};
use ryz_model::{Activations, ModelSource};
use ryz_source::SourceError;
use serde_json::Value;
use tempfile::TempDir;

/// Models whose files can be run.
const MODELS: [&str; 7] = [
    "golden/bon2-v",
    "golden/bin-v",
    "golden/bact-v-b158",
    "golden/bact-v-relu2",
    "golden/bact-v-silu",
    "golden/qwen2-v",
    "golden-real/real-qwen3-v",
];

fn set() -> Option<PathBuf> {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference2");
    if !set.is_dir() {
        eprintln!(
            "SKIPPED: the second reference set, {} is not there",
            set.display()
        );
        return None;
    }
    Some(set)
}

/// A folder with the files of some models, unpacked, and their goldens.
fn unpacked(set: &Path, models: &[&str]) -> (TempDir, usize) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("golden")).unwrap();
    let mut count = 0;
    for model in models {
        let golden = fs::read(set.join(format!("{model}.json"))).unwrap();
        let mut golden: Value = serde_json::from_slice(&golden).unwrap();
        for file in golden["files"].as_array_mut().unwrap() {
            let name = file["file"].as_str().unwrap().to_owned();
            let to = name.trim_end_matches(".xz").to_owned();
            let bytes = match name.ends_with(".xz") {
                false => fs::read(set.join(&name)).unwrap(),
                true => {
                    let output = Command::new("xz").arg("-dc").arg(set.join(&name)).output();
                    let output = output.unwrap();
                    assert!(output.status.success(), "xz {name}: {output:?}");
                    output.stdout
                }
            };
            fs::write(folder.path().join(&to), bytes).unwrap();
            file["file"] = to.into();
            count += 1;
        }
        let name = Path::new(model).file_name().unwrap().to_str().unwrap();
        let path = folder.path().join("golden").join(format!("{name}.json"));
        fs::write(path, golden.to_string()).unwrap();
    }
    (folder, count)
}

#[test]
fn float_activations_match_the_goldens() {
    let Some(set) = set() else {
        return;
    };
    let (folder, count) = unpacked(&set, &MODELS);
    assert_eq!(check_float(folder.path(), Level::detect()), count);
    println!("{count} files of the second set were compared");
    common::note_ran("reference models", count, 0);
}

#[test]
fn int8_activations_match_the_goldens_away_from_rounding_boundaries() {
    let Some(set) = set() else {
        return;
    };
    // The real vocabulary has none.
    let (folder, count) = unpacked(&set, &MODELS[..6]);
    assert_eq!(check_int8(folder.path(), Level::detect(), "a8"), count);
}

#[test]
fn logits_are_the_same_bits_at_every_level_and_in_every_packing() {
    let Some(set) = set() else {
        return;
    };
    let (folder, _) = unpacked(&set, &MODELS[..6]);
    let bits = |logits: Vec<Vec<f32>>| -> Vec<u32> {
        logits
            .iter()
            .flatten()
            .map(|logit| logit.to_bits())
            .collect()
    };
    let mut compared = 0;
    for (name, golden) in Golden::all(folder.path()) {
        let prompt = ids(&golden.0["prompts"][4]["ids"]);
        for file in golden.files(folder.path()) {
            for activations in Activations::ALL {
                let base = Setup {
                    level: Level::Scalar,
                    threads: 1,
                    ..Setup::exact(activations)
                };
                let expected = bits(Runner::load(&file, base).logits(&prompt));
                for level in Level::ALL.into_iter().filter(|level| level.supported()) {
                    for packing in Packing::ALL {
                        let setup = Setup {
                            level,
                            packing,
                            threads: 2,
                            ..base
                        };
                        let got = bits(Runner::load(&file, setup).logits(&prompt));
                        assert!(got == expected, "{name} {activations} {level} {packing}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared >= 100, "only {compared} were compared");
}

#[test]
fn folded_weights_are_refused_by_the_name_of_their_key() {
    let Some(set) = set() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let unpack = Command::new("tar")
        .arg("-xJf")
        .arg(set.join("must-refuse.tar.xz"))
        .arg("-C")
        .arg(folder.path())
        .status();
    assert!(unpack.unwrap().success());
    let mut refused = 0;
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                let error = ModelSource::open(&path).unwrap_err();
                assert!(matches!(error, SourceError::Format { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 15);
    let folded = set.join("q3had-v-ptq1_0.gguf");
    let Err(SourceError::Format { source, .. }) = ModelSource::open(&folded) else {
        panic!("a folded model was opened");
    };
    assert_eq!(source.code(), "UNSUPPORTED");
    assert!(source.to_string().contains("prism.hadamard."), "{source}");
}

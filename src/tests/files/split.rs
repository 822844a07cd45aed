//! Models in several GGUF files.

use std::path::{Path, PathBuf};

use tokgate::cluster::manifest::Manifest;
use tokgate::engine::gguf::{Parts, SplitError};
use tokgate::engine::model_file::{self, ModelFile};
use tokgate::engine::synth::Preset;
use tokgate::engine::weights::LoadOptions;
use tokgate_kernels::DType;

use crate::raw::{File, U32};

/// Writes a model as one file and as three.
fn write(folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let whole = File::synth(Preset::TinyDense, DType::Q8_0);
    let single = folder.join("whole.gguf");
    std::fs::write(&single, whole.bytes()).unwrap();
    let third = whole.tensors.len().div_ceil(3);
    let parts = whole
        .tensors
        .chunks(third)
        .enumerate()
        .map(|(index, tensors)| {
            let mut part = File {
                entries: if index == 0 {
                    whole.entries.clone()
                } else {
                    Vec::new()
                },
                tensors: tensors.to_vec(),
            };
            part.add("split.no", U32, (index as u32).to_le_bytes().to_vec());
            part.add("split.count", U32, 3_u32.to_le_bytes().to_vec());
            let all = whole.tensors.len() as u32;
            part.add("split.tensors.count", U32, all.to_le_bytes().to_vec());
            let path = folder.join(format!("m-{:05}-of-00003.gguf", index + 1));
            std::fs::write(&path, part.bytes()).unwrap();
            path
        });
    (single, parts.collect())
}

#[test]
fn parts_make_the_same_model_as_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (single, parts) = write(folder.path());
    let whole = ModelFile::open(&single, LoadOptions::default()).unwrap();
    let split = ModelFile::open(&parts[0], LoadOptions::default()).unwrap();
    assert_eq!(whole.config, split.config);
    assert_eq!(whole.weights.total(), split.weights.total());
    let row = |model: &ModelFile| {
        let mut row = vec![0.0; model.config.n_embd];
        model.weights.output.view().widen_row(3, &mut row);
        row
    };
    assert_eq!(row(&whole), row(&split));
}

#[test]
fn all_parts_are_listed_and_open_under_the_names_that_a_list_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    let (single, parts) = write(folder.path());
    let of_single = model_file::paths(&single).unwrap();
    assert_eq!(of_single, std::slice::from_ref(&single));
    assert_eq!(model_file::paths(&parts[0]).unwrap(), parts);
    let second = model_file::paths(&parts[1]).unwrap_err();
    assert!(
        second.to_string().contains("give the first part"),
        "{second}"
    );

    let list = Manifest::of(&parts[0], 2).unwrap();
    let kept = folder.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    for (part, entry) in parts.iter().zip(list.files()) {
        std::fs::copy(part, kept.join(&entry.name)).unwrap();
    }
    let model = list.model_in(&kept);
    assert!(list.is_at(&model, 1) && !list.is_at(&single, 1));
    assert!(ModelFile::open(&model, LoadOptions::default()).is_ok());
    std::fs::remove_file(kept.join(&list.files()[2].name)).unwrap();
    assert!(model_file::paths(&model).is_err() && !list.is_at(&model, 1));
}

#[test]
fn parts_that_do_not_belong_together_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (single, parts) = write(folder.path());
    let error = |path: &Path| Parts::open(path).map(|_| ()).unwrap_err();

    let text = error(&parts[1]).to_string();
    assert!(
        text.contains("part 2 of 3") && text.contains("give the first part"),
        "{text}"
    );

    let renamed = folder.path().join("renamed.gguf");
    std::fs::copy(&parts[0], &renamed).unwrap();
    let text = error(&renamed).to_string();
    assert!(
        text.contains("-00001-of-00003.gguf") && text.contains("--merge"),
        "{text}"
    );

    let second = std::fs::read(&parts[1]).unwrap();
    std::fs::copy(&parts[2], &parts[1]).unwrap();
    let text = error(&parts[0]).to_string();
    assert!(text.ends_with("part 3 of 3, not 2 of 3"), "{text}");

    std::fs::remove_file(&parts[1]).unwrap();
    let missing = error(&parts[0]);
    assert!(matches!(missing, SplitError::Part { .. }));
    assert!(missing.to_string().ends_with("m-00002-of-00003.gguf"));

    let mut other = File::default();
    other.add("split.no", U32, 1_u32.to_le_bytes().to_vec());
    other.add("split.count", U32, 3_u32.to_le_bytes().to_vec());
    std::fs::write(&parts[1], other.bytes()).unwrap();
    let text = error(&parts[0]).to_string();
    assert!(text.contains("a part was replaced"), "{text}");

    std::fs::write(&parts[1], second).unwrap();
    Parts::open(&parts[0]).unwrap();
    assert_eq!(Parts::open(&single).unwrap().count(), 1);
}

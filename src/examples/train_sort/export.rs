//! Writing the weights as a GGUF file: matrices in bf16, norms and routers in f32, as converters do.

use std::io::Write;
use std::path::Path;

use half::bf16;
use tokgate::engine::gguf::{GgmlType, MetaValue, Writer};
use tokgate::engine::synth::model_entries;
use tokgate_kernels::DType;

use crate::data;
use crate::net::Net;

/// Writes the file, whole or not at all.
pub fn write(net: &Net, path: &Path) -> anyhow::Result<()> {
    let mut writer = Writer::default();
    let name = net.config.name.as_deref().unwrap_or_default();
    model_entries(&mut writer, &net.config, DType::Bf16, name);
    for (key, value) in data::vocabulary().into_metadata() {
        writer.entry(key, &value);
    }
    writer.entry(
        "general.description",
        &MetaValue::Str(
            "sorts two to eight numbers below 100; made by the example train_sort".to_owned(),
        ),
    );
    let mut contents = Vec::new();
    for (name, var) in &net.weights {
        let dims: Vec<usize> = var.dims().iter().rev().copied().collect();
        let values: Vec<f32> = var.flatten_all()?.to_vec1()?;
        let wide = dims.len() == 1 || name.contains("ffn_gate_inp");
        let kind = if wide { DType::F32 } else { DType::Bf16 };
        writer.tensor(name, &dims, GgmlType::from(kind));
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| {
                if wide {
                    value.to_le_bytes().to_vec()
                } else {
                    bf16::from_f32(*value).to_le_bytes().to_vec()
                }
            })
            .collect();
        contents.push(bytes);
    }
    let layout = writer.finish();
    let mut file = layout.header;
    for (place, bytes) in layout.tensors.iter().zip(contents) {
        file.resize(usize::try_from(place.start)?, 0);
        file.extend(bytes);
    }
    file.resize(usize::try_from(layout.len)?, 0);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut whole = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    whole.write_all(&file)?;
    whole.persist(path)?;
    Ok(())
}

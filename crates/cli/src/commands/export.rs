//! `wattle export`: a checkpoint to a file for other tools.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use candle_core::Device;
use wattle_data::ChatTemplate;
use wattle_meter::WindowEnergy;
use wattle_model::hugging_face::{Directory, write_safetensors};
use wattle_model::{GgufExport, LanguageModel, ModelError, abridged};
use wattle_report::words::describe::describe_work;
use wattle_report::words::quantity::si;
use wattle_runlog::ComputeDevice;
use wattle_session::checkpoint::{Located, is_gguf, tokenizer_of};
use wattle_session::metered::Metered;
use wattle_session::need;

use crate::args::{ExportArgs, ExportFormat};
use crate::exit::{BadUsage, Exit};
use crate::output_file::OutputFile;
use crate::terminal::print;

/// Exports a checkpoint.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    if is_gguf(&args.checkpoint) {
        let fault = format!(
            "{}: is a GGUF file already; name the checkpoint that it was made of",
            args.checkpoint.display()
        );
        return Err(BadUsage::new(fault).into());
    }
    let Located { directory, adapter, .. } = Located::find(&args.checkpoint, args.adapter.as_deref())?;
    refuse_half_merged(args, adapter.is_some())?;
    let load = || {
        let model = directory.load(&Device::Cpu)?;
        if let Some(adapter) = &adapter {
            adapter.merge_into(model.as_ref(), directory.model_config())?;
        }
        Ok(model)
    };
    let weight_type = match (args.format, args.r#type) {
        (ExportFormat::Safetensors, None) => return safetensors(args, &directory, load),
        (ExportFormat::Safetensors, Some(_)) => {
            return Err(BadUsage::new("--type: weights in safetensors are in 32 bits; leave it out").into());
        }
        (ExportFormat::Gguf, Some(weight_type)) => weight_type.into(),
        (ExportFormat::Gguf, None) => {
            return Err(BadUsage::new("--type is missing: expected f16, q8_0 or q4_0").into());
        }
    };
    let tokenizer = tokenizer_of(&directory)?.with_own_json();
    let config = directory.model_config();
    let name = args.checkpoint.display().to_string();
    need::export(&name, config, config.vocab_size, weight_type).check()?;
    let out = OutputFile::open(&args.out, "--out")?;
    let metered = Metered::start(&ComputeDevice::cpu());
    let mut export = GgufExport::of_weights(&directory, tokenizer.to_json(), weight_type, load)?;
    if let Some(chat) = ChatTemplate::of_dir(directory.dir())? {
        export = export.with_chat(&chat.without_markers(), chat.end_of_turn(&tokenizer)?);
    }
    out.finish_with(|file| export.write(file))?;
    let energy = metered.finish();
    export.notes().iter().for_each(|note| tracing::warn!("{note}"));
    print(&describe(&args.out, &directory, &export, energy.as_ref())?)?;
    Ok(Exit::Done)
}

/// Refuses adapters that nobody asked to merge, and a merge without any.
fn refuse_half_merged(args: &ExportArgs, has_adapter: bool) -> anyhow::Result<()> {
    match (args.merge, has_adapter) {
        (true, false) => {
            let fault =
                format!("--merge: {} is no adapter; name one by --adapter", args.checkpoint.display());
            Err(BadUsage::new(fault).into())
        }
        (false, true) => Err(BadUsage::new(
            "an adapter is exported as part of the weights that it belongs to: add --merge",
        )
        .into()),
        _ => Ok(()),
    }
}

/// Files beside the weights that come along.
const BESIDE: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Writes a folder in Hugging Face's layout: complete, or under a temporary name.
fn safetensors(
    args: &ExportArgs,
    directory: &Directory,
    load: impl FnOnce() -> Result<Box<dyn LanguageModel + Send + Sync>, ModelError>,
) -> anyhow::Result<Exit> {
    let out = &args.out;
    if out.exists() {
        let fault = format!("--out {}: is there already; name a folder that is not", out.display());
        return Err(BadUsage::new(fault).into());
    }
    let config = directory.model_config();
    need::loading(&args.checkpoint.display().to_string(), config, config.vocab_size, 1).check()?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("--out {}: cannot be written; choose another path", out.display());
    std::fs::create_dir_all(parent).with_context(cannot)?;
    let folder = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent).with_context(cannot)?;
    let metered = Metered::start(&ComputeDevice::cpu());
    let weights = folder.path().join("model.safetensors");
    write_safetensors(&weights, &load()?.weights()?)?;
    for name in BESIDE {
        let from = directory.dir().join(name);
        if from.is_file() {
            std::fs::copy(&from, folder.path().join(name)).with_context(|| from.display().to_string())?;
        }
    }
    let size = weights.metadata().with_context(cannot)?.len() as f64;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).with_context(cannot)?;
    std::fs::rename(folder.keep(), out).with_context(cannot)?;
    let mut lines = vec![("folder", out.display().to_string()), ("size", si(size, "B"))];
    lines.extend(metered.finish().as_ref().map(|window| ("energy", describe_work(window))));
    print(&lines.into_iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect::<String>())?;
    Ok(Exit::Done)
}

fn describe(
    out: &Path,
    directory: &Directory,
    export: &GgufExport,
    energy: Option<&WindowEnergy>,
) -> anyhow::Result<String> {
    let len =
        |path: &Path| path.metadata().map(|m| m.len() as f64).with_context(|| path.display().to_string());
    let (written, before) =
        (len(out)?, directory.weight_files().iter().map(|path| len(path)).sum::<Result<f64, _>>()?);
    let size = format!(
        "{}, {:.1} % of the checkpoint's {}",
        si(written, "B"),
        100.0 * written / before,
        si(before, "B")
    );
    let mut lines = vec![("file", out.display().to_string()), ("size", size)];
    for (name, share) in export.shares() {
        let tensors = if share.n_tensors == 1 { "tensor" } else { "tensors" };
        lines.push((
            "weights",
            format!("{} {tensors} of {name}, {}", share.n_tensors, si(share.len_bytes as f64, "B")),
        ));
    }
    if !export.in_halves().is_empty() {
        lines.push(("in f16", format!("{} (a row is no multiple of 32)", abridged(export.in_halves()))));
    }
    lines.extend(energy.map(|window| ("energy", describe_work(window))));
    Ok(lines.into_iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect())
}

//! `wattle export`: a checkpoint to a file for other tools.

use std::path::Path;

use anyhow::Context;
use wattle_data::ChatTemplate;
use wattle_meter::WindowEnergy;
use wattle_model::hugging_face::Directory;
use wattle_model::{GgufExport, abridged};
use wattle_report::words::describe::describe_work;
use wattle_report::words::quantity::si;
use wattle_runlog::ComputeDevice;
use wattle_session::checkpoint::{is_gguf, locate, tokenizer_of};
use wattle_session::metered::Metered;
use wattle_session::need;

use crate::args::{ExportArgs, ExportFormat};
use crate::exit::{BadUsage, Exit};
use crate::output_file::OutputFile;
use crate::terminal::print;

/// Exports a checkpoint.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    let ExportFormat::Gguf = args.format;
    if is_gguf(&args.checkpoint) {
        let fault = format!(
            "{}: is a GGUF file already; name the checkpoint that it was made of",
            args.checkpoint.display()
        );
        return Err(BadUsage::new(fault).into());
    }
    let directory = Directory::open(&locate(&args.checkpoint)?)?;
    let tokenizer = tokenizer_of(&directory)?.with_own_json();
    let config = directory.model_config();
    let name = args.checkpoint.display().to_string();
    need::export(&name, config, config.vocab_size, args.r#type.into()).check()?;
    let out = OutputFile::open(&args.out, "--out")?;
    let metered = Metered::start(&ComputeDevice::cpu());
    let mut export = GgufExport::of(&directory, tokenizer.to_json(), args.r#type.into())?;
    if let Some(chat) = ChatTemplate::of_dir(directory.dir())? {
        export = export.with_chat(&chat.without_markers(), chat.end_of_turn(&tokenizer)?);
    }
    out.finish_with(|file| export.write(file))?;
    let energy = metered.finish();
    export.notes().iter().for_each(|note| tracing::warn!("{note}"));
    print(&describe(&args.out, &directory, &export, energy.as_ref())?)?;
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

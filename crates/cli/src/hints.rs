//! Hints for unknown flags: people use the flags of other trainers.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of other trainers by the setting that they are here. A dash or an underscore makes no difference.
#[cfg(feature = "train")]
const SETTINGS: [(&[&str], &str); 22] = [
    (&["lr", "learning-rate", "max-lr"], "optimizer.learning_rate"),
    (&["min-lr"], "schedule.min_learning_rate"),
    (&["warmup", "warmup-steps", "warmup-iters"], "schedule.warmup_steps"),
    (&["epochs", "num-epochs", "num-train-epochs", "n-epochs"], "train.epochs"),
    (&["batch-size", "batch", "bs", "per-device-train-batch-size"], "train.batch_size"),
    (&["micro-batch", "micro-batch-size"], "train.micro_batch_size"),
    (&["steps", "max-steps", "iters", "max-iters", "iterations"], "train.max_steps"),
    (&["threads", "num-threads", "workers", "num-workers"], "train.threads"),
    (&["clip", "grad-clip", "clip-norm", "max-grad-norm"], "train.clip_norm"),
    (&["seed"], "run.seed"),
    (&["name", "run-name"], "run.name"),
    (&["optimizer", "optim"], "optimizer.kind"),
    (&["weight-decay", "wd"], "optimizer.weight_decay"),
    (&["dropout"], "model.dropout"),
    (&["context", "block-size", "seq-len", "seq-length", "context-length", "max-length"], "model.context"),
    (&["layers", "n-layer", "n-layers", "num-layers"], "model.n_layers"),
    (&["heads", "n-head", "n-heads", "num-heads"], "model.n_heads"),
    (&["d-model", "n-embd", "hidden-size", "embed-dim"], "model.d_model"),
    (&["dtype", "precision"], "precision.dtype"),
    (&["eval-every", "eval-interval", "eval-steps"], "evaluate.every_steps"),
    (&["save-every", "save-steps"], "checkpoint.every_steps"),
    (&["val-fraction"], "data.val_fraction"),
];

/// Adds to an error of the command line what was probably meant, where that is known.
pub fn with_hint(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let hint = match error.kind() {
        ErrorKind::UnknownArgument => unknown_argument(&error, arguments),
        _ => None,
    };
    if let Some(hint) = hint {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(hint)]));
    }
    error
}

fn unknown_argument(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let is_train =
        words.iter().skip(1).find(|word| !word.starts_with('-')).is_some_and(|word| word == "train");
    let flag = argument.split('=').next()?.trim_start_matches('-').replace('_', "-").to_lowercase();
    if !is_train || !argument.starts_with('-') {
        return None;
    }
    let value = value_of(argument, &words);
    meant_in_training(&flag, value.as_deref())
}

/// The value that follows a flag, after `=` or as the next word.
fn value_of(argument: &str, words: &[String]) -> Option<String> {
    if let Some((_, value)) = argument.split_once('=') {
        return Some(value.to_owned());
    }
    let at = words.iter().position(|word| word.split('=').next() == Some(argument))?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => words.get(at + 1).filter(|word| !word.starts_with("--")).cloned(),
    }
}

#[cfg(not(feature = "train"))]
fn meant_in_training(_flag: &str, _value: Option<&str>) -> Option<String> {
    None
}

#[cfg(feature = "train")]
fn meant_in_training(flag: &str, value: Option<&str>) -> Option<String> {
    let or = |placeholder: &'static str| value.unwrap_or(placeholder);
    let written = |setting: String| Some(format!("write {setting}"));
    match flag {
        "data" | "dataset" | "data-dir" => {
            let input = or("FILE");
            return written(format!(
                "--set 'data.input=[\"{input}\"]' for a text, or --set 'data.dir=\"{input}\"' for a folder that \
                 wattle prepare made"
            ));
        }
        "input" | "text" | "file" | "train-file" => {
            return written(format!("--set 'data.input=[\"{}\"]'", or("FILE")));
        }
        "model" | "init-from" | "checkpoint" | "model-name-or-path" | "pretrained" => {
            return written(format!(
                "--set 'model.init_from=\"{}\"' to start from its weights, or --set model.family=llama for another family",
                or("DIR")
            ));
        }
        "tokenizer" => {
            return written(format!(
                "--set 'tokenizer.file=\"{}\"' for a tokenizer.json, or --set tokenizer.kind=chars",
                or("FILE")
            ));
        }
        "config" | "c" => return written(format!("the file itself: wattle train {}", or("CONFIG.toml"))),
        "output" | "output-dir" | "out-dir" | "o" => return written(format!("--out {}", or("DIR"))),
        "gpu" | "gpus" | "cuda" => return written("--device cuda".to_owned()),
        "cpu" | "no-cuda" => return written("--device cpu".to_owned()),
        _ => {}
    }
    let setting = SETTINGS.iter().find(|(flags, _)| flags.contains(&flag)).map(|(_, key)| (*key).to_owned());
    let key = setting.or_else(|| wattle_session::config::key_called(&flag.replace('-', "_")))?;
    written(format!("--set {key}={}", or("VALUE")))
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn said(words: &[&str]) -> String {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = Args::try_parse_from(&arguments).expect_err("there is no such flag");
        with_hint(error, &arguments).to_string()
    }

    #[test]
    fn flags_of_other_trainers_are_named_as_the_settings_that_they_are() {
        for (words, expected) in [
            (&["--lr", "3e-4"][..], "--set optimizer.learning_rate=3e-4"),
            (&["--learning_rate=3e-4"], "--set optimizer.learning_rate=3e-4"),
            (&["--epochs", "5"], "--set train.epochs=5"),
            (&["--batch-size", "8"], "--set train.batch_size=8"),
            (&["--steps"], "--set train.max_steps=VALUE"),
            (&["--data", "d"], "--set 'data.input=[\"d\"]'"),
            (&["--input", "a.txt"], "--set 'data.input=[\"a.txt\"]'"),
            (&["--model", "gpt2/"], "--set 'model.init_from=\"gpt2/\"'"),
            (&["--seed", "7"], "--set run.seed=7"),
            (&["--gpu"], "--device cuda"),
            (&["--output-dir", "x"], "--out x"),
            // A key by its own name.
            (&["--rope-theta", "5e5"], "--set model.rope_theta=5e5"),
            (&["--interval_ms=20"], "--set energy.interval_ms=20"),
        ] {
            let said = said(&[&["wattle", "train"], words].concat());
            assert!(said.contains(expected), "{words:?}: {said}");
        }
    }

    #[test]
    fn what_is_like_nothing_gets_no_hint() {
        let said = said(&["wattle", "train", "--frobnicate"]);
        assert!(said.contains("--frobnicate") && !said.contains("--set section"), "{said}");
    }
}

//! From files of weights to a model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Result as TensorResult, Tensor};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use super::safetensors::numbers;
use super::weight_files::{Shard, WeightFiles};
use crate::config::ModelConfig;
use crate::copies::{overwrite, with_values};
use crate::differences::differences;
use crate::error::ModelError;
use crate::families::{BoxedModel, FamilySpec, HEAD};

/// Tensors in mapped files, by the parameter's name.
type Views<'a> = BTreeMap<String, TensorView<'a>>;

/// Builds a model of `config` from files of one of `own`. They differ in dropout and, at most, in context.
///
/// The files are mapped, and all threads copy from them: beside the model, tensors of another type than `f32` are in
/// memory for as long as a thread converts them.
pub(super) fn load(
    files: &WeightFiles,
    own: &ModelConfig,
    config: &ModelConfig,
    device: &Device,
) -> Result<BoxedModel, ModelError> {
    let spec = own.family.spec();
    let parameter_name = spec.hugging_face.parameter_name;
    // An index may list a tied head, which no shard holds. One that is not tied is missed below, with the remedy.
    let is_needed = |name: &str| parameter_name(&unwrapped(name)).is_some_and(|parameter| parameter != HEAD);
    let shards = files.open(is_needed)?;
    let mut faults = Vec::new();
    let mut views = views(&shards, parameter_name, &mut faults);
    say_what_was_taken_off(files.head(), &shards);
    if own.tie_embeddings {
        drop_tied_head(&mut views, spec.token_table, &mut faults)?;
    }
    let is_zero_bias = |name: &str| (spec.hugging_face.is_zero_bias)(own, name);
    drop_zero_biases(&mut views, is_zero_bias, device, &mut faults)?;
    // Before a byte is allocated: what config.json says may be absurd.
    faults.extend(mismatches(own, spec, &views));
    if !faults.is_empty() {
        return Err(ModelError::Mismatch { path: files.head().to_owned(), faults });
    }
    let model = spec.blank(config, own.vocab_size, device)?;
    model.parameters().par_iter().try_for_each(|parameter| {
        let view = &views[&parameter.name];
        // Fewer positions than the file has are its first rows.
        let n = parameter.var.elem_count();
        match numbers(view) {
            Some(values) => overwrite(&parameter.var, &values[..n]),
            None => {
                with_values(&read(view, &Device::Cpu)?, |values| overwrite(&parameter.var, &values[..n]))?
            }
        }
    })?;
    Ok(model)
}

/// Names of modules that PyTorch wraps around others (`torch.compile`, `DistributedDataParallel`, FSDP, activation
/// checkpointing). They come into the names of what lies within them.
const WRAPPERS: [&str; 4] = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A tensor's name without the names of wrappers.
fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".")
}

fn say_what_was_taken_off(path: &Path, shards: &[Shard]) {
    let names = shards.iter().flat_map(|shard| shard.tensors.tensors()).map(|(name, _)| name);
    let wrapped: Vec<String> = names.filter(|name| unwrapped(name) != *name).collect();
    let Some(first) = wrapped.first() else { return };
    let there: Vec<String> = WRAPPERS
        .iter()
        .filter(|wrapper| wrapped.iter().any(|name| name.split('.').any(|part| part == **wrapper)))
        .map(|wrapper| format!("\"{wrapper}.\""))
        .collect();
    tracing::warn!(
        "{}: {} in the names of {} tensors is taken off: {first} is read as {}",
        path.display(),
        there.join(" and "),
        wrapped.len(),
        unwrapped(first)
    );
}

fn views<'a>(
    shards: &'a [Shard],
    parameter_name: fn(&str) -> Option<String>,
    faults: &mut Vec<String>,
) -> Views<'a> {
    let mut views = Views::new();
    for shard in shards {
        for (name, view) in shard.tensors.tensors() {
            let Some(parameter) = parameter_name(&unwrapped(&name)) else { continue };
            if views.insert(parameter, view).is_some() {
                faults.push(format!("{name} is there twice, the second time in {}", shard.path.display()));
            }
        }
    }
    views
}

/// A tied head is the token table; some programs save it nevertheless.
fn drop_tied_head(views: &mut Views<'_>, token_table: &str, faults: &mut Vec<String>) -> TensorResult<()> {
    let Some(head) = views.remove(HEAD) else { return Ok(()) };
    let is_same = match views.get(token_table) {
        Some(table) => is_same(table, &head)?,
        None => true,
    };
    if !is_same {
        faults.push(format!(
            "{HEAD} differs from {token_table}, but they are tied: set tie_word_embeddings to false in config.json"
        ));
    }
    Ok(())
}

/// Whether two tensors hold the same values, or one those of the other rounded to its type.
fn is_same(a: &TensorView<'_>, b: &TensorView<'_>) -> TensorResult<bool> {
    if a.shape() != b.shape() {
        return Ok(false);
    }
    if a.dtype() == b.dtype() {
        return Ok(a.data() == b.data());
    }
    if !is_float(a) || !is_float(b) {
        return Ok(false);
    }
    let as_read = |view: &TensorView<'_>| Load::load(view, &Device::Cpu);
    let (a, b) = (as_read(a)?, as_read(b)?);
    let is_rounded = |fine: &Tensor, coarse: &Tensor| {
        let rounded = fine.to_dtype(coarse.dtype())?.to_dtype(DType::F32)?;
        let n_other = rounded.ne(&coarse.to_dtype(DType::F32)?)?.to_dtype(DType::U32)?.sum_all()?;
        Ok::<_, candle_core::Error>(n_other.to_scalar::<u32>()? == 0)
    };
    Ok(is_rounded(&a, &b)? || is_rounded(&b, &a)?)
}

/// Whether it has a type that parameters are read from.
fn is_float(view: &TensorView<'_>) -> bool {
    matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Removes biases that the model does not have, which have to be zero.
fn drop_zero_biases(
    views: &mut Views<'_>,
    is_zero_bias: impl Fn(&str) -> bool,
    device: &Device,
    faults: &mut Vec<String>,
) -> TensorResult<()> {
    let names: Vec<String> = views.keys().filter(|name| is_zero_bias(name)).cloned().collect();
    for name in names {
        let Some(bias) = views.remove(&name) else { continue };
        if read(&bias, device)?.abs()?.sum_all()?.to_scalar::<f32>()? != 0.0 {
            faults.push(format!("{name} is not zero: set bias to true in config.json"));
        }
    }
    Ok(())
}

/// What is missing, extra, or of another shape or type than `own` says, a clause each.
fn mismatches(own: &ModelConfig, spec: &FamilySpec, views: &Views<'_>) -> Vec<String> {
    if own.n_layers > views.len() {
        return vec![format!(
            "config.json says {} = {}, but there are {} tensors",
            spec.hugging_face.n_layers,
            own.n_layers,
            views.len()
        )];
    }
    let expected = (spec.parameter_shapes)(own);
    let got = views.iter().map(|(name, view)| (name.as_str(), view.shape()));
    let type_fault = |name: &str| {
        let view = &views[name];
        (!is_float(view)).then(|| format!("{name} has type {:?}, expected F32, F16 or BF16", view.dtype()))
    };
    let mut differences = differences(expected, got, type_fault);
    let is_headless = differences.missing.iter().any(|name| name == HEAD);
    differences.missing.retain(|name| name != HEAD);
    let mut faults = differences.faults();
    if is_headless {
        faults.push(format!(
            "{HEAD} is missing, and config.json does not say that the head is {}: if it is, set \
             tie_word_embeddings to true there",
            spec.token_table
        ));
    }
    faults
}

fn read(view: &TensorView<'_>, device: &Device) -> TensorResult<Tensor> {
    Load::load(view, device)?.to_dtype(DType::F32)
}

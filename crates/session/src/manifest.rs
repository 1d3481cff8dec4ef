//! The manifest of a run, and what its model cards say of it.

use wattle_data::{Dataset, StepManifest};
use wattle_meter::config::stated_machine;
use wattle_meter::segment_prices;
use wattle_model::LanguageModel;
use wattle_runlog::clock::file_stamp;
use wattle_runlog::grid::GridOrigin;
use wattle_runlog::manifest::{
    DataInfo, DataStep, Drivers, Host, LossFloor, MANIFEST_SCHEMA, ModelInfo, SegmentPrices, Versions,
};
use wattle_runlog::{Manifest, Segment};
use wattle_train::device::ChosenDevice;

use crate::config::Config;
use crate::earlier::Earlier;
use crate::metering::MeterInfo;
use crate::model_card::ModelCard;

/// candle's version.
const CANDLE_VERSION: &str = "0.11.1";

/// The manifest of the run with a segment added, as far as it is known before data and model are.
pub(crate) fn with_segment(
    config: &Config,
    device: &ChosenDevice,
    earlier: &Earlier,
    step_start: u64,
    grid: Option<&GridOrigin>,
) -> Manifest {
    let mut manifest = earlier.manifest.clone().unwrap_or_else(|| Manifest {
        schema: MANIFEST_SCHEMA.to_owned(),
        run_id: new_run_id(&config.run.name),
        name: config.run.name.clone(),
        versions: Versions {
            wattle: env!("CARGO_PKG_VERSION").to_owned(),
            candle: Some(CANDLE_VERSION.to_owned()),
        },
        command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        seed: config.run.seed,
        devices: Vec::new(),
        drivers: Drivers::default(),
        host: Host::here(),
        sensors: Vec::new(),
        data: None,
        model: None,
        segments: Vec::new(),
    });
    manifest.devices = vec![device.compute.clone()];
    manifest.host = Host::here();
    let id = manifest.segments.last().map_or(0, |last| last.id + 1);
    // A region without an intensity is a fault of the configuration.
    let prices = segment_prices(config.energy.pue, &config.carbon, &config.cost, grid)
        .ok()
        .map(|prices| SegmentPrices { machine: stated_machine(&config.energy, &config.carbon), ..prices });
    manifest.segments.push(Segment { prices, ..Segment::now(id, step_start) });
    manifest
}

/// Fills in what is known once there are data, a model and sensors.
pub(crate) fn complete(
    manifest: &mut Manifest,
    meter: MeterInfo,
    dataset: &Dataset,
    model: &dyn LanguageModel,
) {
    let split = &dataset.manifest.split;
    manifest.drivers = meter.drivers;
    manifest.sensors = meter.sensors;
    manifest.data = Some(DataInfo {
        sha256: dataset.content_hash(),
        text_sha256: Some(dataset.text_hash()),
        tokenizer_sha256: dataset.tokenizer.sha256(),
        train_tokens: split.train.tokens,
        val_tokens: split.val.as_ref().map_or(0, |val| val.tokens),
        unverified: !dataset.is_verified,
        floor: loss_floor(dataset),
        steps: dataset
            .manifest
            .documents
            .iter()
            .flat_map(|documents| &documents.steps)
            .map(data_step)
            .collect(),
    });
    manifest.model = Some(ModelInfo { family: model_type(model), parameters: model.n_parameters() });
}

/// The card of a run whose manifest is complete. `family` is how a person calls the model.
pub(crate) fn card(
    config: &Config,
    family: String,
    device: &ChosenDevice,
    dataset: &Dataset,
    manifest: &Manifest,
) -> ModelCard {
    let gpu = manifest.sensors.iter().find(|sensor| sensor.id.starts_with("gpu:"));
    let cpu = || manifest.host.cpu_model.clone().unwrap_or_else(|| "a CPU".to_owned());
    let sources: Vec<&str> = dataset.manifest.sources.iter().map(|source| source.path.as_str()).collect();
    let data = match dataset.manifest.generated {
        Some(_) => "tales from wattle's embedded grammar".to_owned(),
        None => sources.join(", "),
    };
    ModelCard {
        name: manifest.name.clone(),
        run_id: manifest.run_id.clone(),
        family,
        n_parameters: manifest.model.as_ref().map_or(0, |model| model.parameters),
        data,
        is_adapter: config.lora.is_on(),
        base_model: config.model.init_from.as_ref().map(|dir| dir.display().to_string()),
        hardware: match device.device.is_cpu() {
            true => cpu(),
            false => gpu.map_or_else(|| device.compute.to_string(), |gpu| gpu.description.clone()),
        },
    }
}

/// The model's type as its `config.json` states it.
pub(crate) fn model_type(model: &dyn LanguageModel) -> String {
    model.config_json()["model_type"].as_str().unwrap_or_default().to_owned()
}

/// A step of preparation as a run's manifest has it.
fn data_step(step: &StepManifest) -> DataStep {
    DataStep {
        name: step.name.clone(),
        rule: step.rule.clone(),
        documents_in: step.documents_in,
        documents_out: step.documents_out,
        bytes_in: step.bytes_in,
        bytes_out: step.bytes_out,
        found: step.found.clone(),
    }
}

/// The entropy of a generated validation split.
fn loss_floor(dataset: &Dataset) -> Option<LossFloor> {
    let nats_per_token = dataset.floor?.nats_per_token();
    let val = dataset.manifest.split.val.as_ref()?;
    Some(LossFloor { nats_per_token, bits_per_byte: val.bits_per_byte(nats_per_token)? })
}

fn new_run_id(name: &str) -> String {
    format!("{name}-{}-{:x}", file_stamp(), std::process::id())
}

//! From files and flags to one configuration, or to a list of all that is wrong with them.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use wattle_data::{DataConfig, Mixture};
use wattle_session::Config;
use wattle_session::config::{SCHEMA, flatten};
use wattle_settings::SectionInfo;

use super::keys::nearest;
use super::layer::Layer;
use super::settle::settle;
use super::{Preset, init_from};

/// Where settings come from, least binding first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A ready configuration.
    pub preset: Option<Preset>,
    /// A configuration file.
    pub file: Option<PathBuf>,
    /// `section.key=value` pairs.
    pub set: Vec<String>,
    /// Layers over all of those, the least binding first.
    pub over: Vec<Layer>,
}

/// The configuration that `sources` make over `base`. What was settled for the user is logged.
///
/// # Errors
/// Everything that is wrong, in one list.
pub fn resolve(base: Option<Layer>, sources: &Sources) -> Result<Config, Vec<String>> {
    let (config, notes) = resolve_quietly(base, sources)?;
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok(config)
}

/// [`resolve`] with what was settled returned instead of logged.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_quietly(base: Option<Layer>, sources: &Sources) -> Result<(Config, Vec<String>), Vec<String>> {
    let (given, mut faults) = layers_of(sources);
    let layers = base.into_iter().chain(given);

    let mut merged = Table::new();
    let (mut explicit_keys, mut asked_for) = (Vec::new(), Vec::new());
    for mut layer in layers {
        faults.extend(take_faulty(&mut layer));
        if layer.is_explicit {
            let keys: Vec<String> = flatten(&layer.table).into_iter().map(|(key, _)| key).collect();
            asked_for.extend(keys.iter().filter(|_| !layer.is_of_a_run()).cloned());
            explicit_keys.extend(keys);
        }
        merge(&mut merged, layer.table);
    }
    // What is wrong by itself is out of the way; what is left may still be wrong together.
    let mut config: Config = match merged.try_into() {
        Ok(config) => config,
        Err(error) => {
            faults.push(error.to_string());
            return Err(faults);
        }
    };
    let model_keys: Vec<&str> = explicit_keys.iter().filter_map(|key| key.strip_prefix("model.")).collect();
    config.model.settle(&model_keys);
    let mut notes = settle(&mut config, &explicit_keys);
    if let Err(fault) = config.make_absolute() {
        faults.push(fault);
    } else if let Err(contradictions) = init_from::adopt(&mut config, &explicit_keys) {
        faults.extend(contradictions);
    } else if config.model.init_from.is_some() {
        // The family is the directory's; dropout is not.
        config.model.settle(&model_keys);
    }
    faults.extend(config.model.idle_faults(&model_keys));
    faults.extend(config.faults());
    if faults.is_empty() {
        faults.extend(config.contradictions());
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    notes.extend(idle_notes(&config, &asked_for));
    config.reset_idle();
    Ok((config, notes))
}

/// The layers of `sources`, the least binding first, and what is wrong with those that could not be read.
fn layers_of(sources: &Sources) -> (Vec<Layer>, Vec<String>) {
    let preset = sources.preset.map(Layer::preset);
    let file = sources.file.as_deref().map(Layer::read);
    let set = sources.set.iter().map(|pair| Layer::set(pair));
    let (mut layers, mut faults) = (Vec::new(), Vec::new());
    for layer in preset.into_iter().chain(file).chain(set) {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(fault) => faults.push(fault),
        }
    }
    layers.extend(sources.over.iter().cloned());
    (layers, faults)
}

/// What `sources` say, without defaults, once it is known that a configuration can be made of them.
///
/// # Errors
/// As [`resolve`].
pub fn said_by(sources: &Sources) -> Result<Table, Vec<String>> {
    resolve_quietly(None, sources)?;
    let mut merged = Table::new();
    layers_of(sources).0.into_iter().for_each(|layer| merge(&mut merged, layer.table));
    Ok(merged)
}

/// `data` with the settings of `pairs`, each `data.KEY=VALUE`, over it.
///
/// # Errors
/// Everything that is wrong with them by themselves.
pub fn data_with(data: DataConfig, pairs: &[String]) -> Result<DataConfig, Vec<String>> {
    let (mut faults, mut table) = (Vec::new(), Table::new());
    for pair in pairs {
        match Layer::set(pair) {
            Ok(mut layer) => {
                faults.extend(take_faulty(&mut layer));
                let others = layer.table.keys().filter(|section| *section != "data");
                faults.extend(others.map(|section| {
                    format!("--set {pair}: expected a key of the section data, got one of {section}")
                }));
                merge(&mut table, layer.table);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let Some(Value::Table(set)) = table.remove("data") else { return Ok(data) };
    // Paths need not be UTF-8, which TOML is.
    let DataConfig { input, dir, cache_dir, chat_template, known_format, .. } = data.clone();
    let rest = DataConfig { input: Vec::new(), dir: None, cache_dir: None, chat_template: None, ..data };
    let mut whole = Table::try_from(&rest).expect("a configuration without paths can be written as TOML");
    whole.extend(set.clone());
    let found: DataConfig = whole.try_into().map_err(|error: toml::de::Error| vec![error.to_string()])?;
    let is_set = |key: &str| set.contains_key(key);
    Ok(DataConfig {
        input: if is_set("input") { found.input } else { input },
        dir: if is_set("dir") { found.dir } else { dir },
        cache_dir: if is_set("cache_dir") { found.cache_dir } else { cache_dir },
        chat_template: if is_set("chat_template") { found.chat_template } else { chat_template },
        known_format,
        ..found
    })
}

/// The mixture that the configuration at `path` describes; none if it has no such tables.
///
/// # Errors
/// If it cannot be read, or its tables are not sources.
pub fn mixture_in(path: &Path) -> Result<Mixture, Vec<String>> {
    let mut layer = Layer::read(path).map_err(|fault| vec![fault])?;
    let faults = take_faulty(&mut layer);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mixture = layer.table.get("data").and_then(|data| data.get("mixture")).cloned();
    let mixture = mixture.map(Value::try_into::<Mixture>).transpose();
    mixture.map(Option::unwrap_or_default).map_err(|error| vec![format!("{}: {error}", path.display())])
}

/// A sentence for each key that the user asked for and that has no effect.
fn idle_notes(config: &Config, asked_for: &[String]) -> Vec<String> {
    let idle = SCHEMA.idle(&config.to_whole_table()).into_iter();
    idle.filter(|idle| asked_for.contains(&idle.setting.path())).map(|idle| idle.to_string()).collect()
}

/// Takes unknown sections and keys, and values that do not fit, out of a layer and says what is wrong with them.
fn take_faulty(layer: &mut Layer) -> Vec<String> {
    let origin = layer.origin.as_str();
    let mut faults = Vec::new();
    layer.table.retain(|section_name, content| {
        let Some(section) = SCHEMA.section(section_name) else {
            faults.push(unknown_section(origin, section_name));
            return false;
        };
        let Value::Table(content) = content else {
            faults.push(format!("{origin}: {section_name}: expected a section, [{section_name}]"));
            return false;
        };
        content.retain(|key, value| match fault(section, key, value) {
            Some(fault) => {
                faults.push(format!("{origin}: {fault}"));
                false
            }
            None => true,
        });
        true
    });
    faults
}

/// What is wrong with one setting by itself.
fn fault(section: &SectionInfo, key: &str, value: &Value) -> Option<String> {
    let path = format!("{}.{key}", section.name);
    let Some(setting) = section.setting(key) else { return Some(unknown_key(&path)) };
    let mistake = section.mistake(setting, &path, value)?;
    Some(format!("{path} = {value}: {mistake}"))
}

fn unknown_section(origin: &str, name: &str) -> String {
    let known = SCHEMA.0.iter().map(|section| section.name);
    match nearest(name, known.clone()) {
        Some(near) => format!("{origin}: unknown section {name:?}; did you mean {near:?}?"),
        None => format!(
            "{origin}: unknown section {name:?}; expected one of {}",
            known.collect::<Vec<_>>().join(", ")
        ),
    }
}

fn unknown_key(path: &str) -> String {
    let known: Vec<String> = SCHEMA.settings().map(|setting| setting.path()).collect();
    match nearest(path, known.iter().map(String::as_str)) {
        Some(near) => format!("unknown key {path:?}; did you mean {near:?}?"),
        None => format!(
            "unknown key {path:?}; wattle train --help lists all keys, docs/configuration.md describes them"
        ),
    }
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_session::config::differences;

    use std::path::Path;

    use super::*;

    fn set(pairs: &[&str]) -> Result<Config, Vec<String>> {
        let set = pairs.iter().map(|&pair| pair.to_owned()).collect();
        resolve(None, &Sources { set, ..Sources::default() })
    }

    #[test]
    fn every_preset_resolves_once_it_has_its_text() {
        for preset in <Preset as clap::ValueEnum>::value_variants() {
            let set = vec!["data.input=[\"Cargo.toml\"]".to_owned()];
            let sources = Sources { preset: Some(*preset), set, ..Sources::default() };
            let config = resolve(None, &sources).unwrap_or_else(|faults| panic!("{preset:?}: {faults:?}"));
            assert_eq!(config.run.name, preset.name());
        }
        let sources = Sources { preset: Some(Preset::ShakespeareChar), ..Sources::default() };
        let faults = resolve(None, &sources).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains("input.txt"), "{faults:?}");
    }

    #[test]
    fn what_is_resolved_resolves_to_itself() {
        let config = set(&["model.n_layers=6", "carbon.region=FRA", "data.input=[\"Cargo.toml\"]"]).unwrap();
        let layer = Layer::parse("config.toml", &config.to_toml()).unwrap();
        assert_eq!(resolve(Some(layer), &Sources::default()).unwrap(), config);
    }

    #[test]
    fn keys_that_change_nothing_are_refused_and_not_written() {
        let faults = set(&["model.rope_theta=500000", "model.n_kv_heads=2"]).unwrap_err().join("\n");
        for part in
            ["model.rope_theta = 500000.0: a GPT-2 has no rotary", "model.n_kv_heads = 2: a GPT-2 has"]
        {
            assert!(faults.contains(part), "{part:?} is not in\n{faults}");
        }
        assert!(set(&["model.n_kv_heads=4"]).is_ok() && set(&["model.n_kv_heads=0"]).is_ok());
        let faults = set(&["model.family=llama", "model.rope_factor=8"]).unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].starts_with("model.rope_factor = 8.0: nothing is"),
            "{faults:?}"
        );

        assert!(!set(&[]).unwrap().to_toml().contains("rope_"));
        let linear = ["model.family=llama", "model.rope_scaling=linear", "model.rope_factor=2"];
        let linear = set(&linear).unwrap();
        let written = linear.to_toml();
        assert!(written.contains("rope_factor = 2.0") && !written.contains("freq"), "{written}");
        let layer = Layer::parse("config.toml", &written).unwrap();
        assert_eq!(resolve(Some(layer), &Sources::default()).unwrap(), linear);
    }

    #[test]
    fn a_file_that_an_earlier_version_wrote_with_every_key_is_read() {
        let config = set(&[]).unwrap();
        let every = toml::to_string(&config.to_whole_table()).unwrap();
        assert!(every.contains("rope_original_context"), "{every}");
        let layer = || Some(Layer::parse("config.toml", &every).unwrap());
        let (stored, notes) = resolve_quietly(layer(), &Sources::default()).unwrap();
        assert_eq!((&stored, notes), (&config, Vec::<String>::new()));
        // What the user sets over it is looked at.
        let set = vec!["schedule.decay_fraction=0.1".to_owned()];
        let (_, notes) = resolve_quietly(layer(), &Sources { set, ..Sources::default() }).unwrap();
        assert!(notes.len() == 1 && notes[0].starts_with("schedule.decay_fraction = 0.1"), "{notes:?}");
        assert_eq!(differences(&stored, &config), Vec::<String>::new());
    }

    #[test]
    fn keys_without_effect_are_warned_of_and_not_written() {
        let noted = |pairs: &[&str]| {
            let set = pairs.iter().map(|&pair| pair.to_owned()).collect();
            resolve_quietly(None, &Sources { set, ..Sources::default() }).unwrap()
        };
        let (config, notes) = noted(&["schedule.decay_fraction=0.2", "cost.currency=USD"]);
        assert_eq!(
            notes,
            [
                "schedule.decay_fraction = 0.2: has no effect with schedule.kind = \"cosine\"; leave it out or set \
                 schedule.kind = \"wsd\"",
                "cost.currency = \"USD\": has no effect without cost.price_per_kwh; leave it out or set \
                 cost.price_per_kwh",
            ]
        );
        assert_eq!(config.cost.currency, "EUR", "a key that has no effect has its default");
        for (pairs, idle) in [
            (&[][..], &["decay_fraction", "text_field", "format", "bad_records", "currency"][..]),
            (&["schedule.kind=constant"], &["min_learning_rate", "decay_fraction"]),
            (&["schedule.kind=wsd", "cost.price_per_kwh=0.3"], &["text_field"]),
            (&["tokenizer.kind=chars"], &["vocab_size = 2048"]),
            (&["train.engine=autograd"], &["recompute"]),
            (&["data.input=[\"Cargo.toml\"]"], &["embedded_chars", "embedded_seed"]),
            (
                &["data.mixture=[{name=\"a\",path=\"Cargo.toml\",weight=2}]"],
                &["embedded_chars", "embedded_seed"],
            ),
            (&["data.input=[\"Cargo.toml\"]", "data.format=text"], &["text_field", "bad_records"]),
            (&["data.val_fraction=0"], &["batches", "patience"]),
            (&["carbon.intensity_g_per_kwh=30"], &["region"]),
        ] {
            let (config, notes) = noted(pairs);
            assert_eq!(notes, Vec::<String>::new());
            let written = config.to_toml();
            for key in idle {
                assert!(!written.contains(key), "{pairs:?}: {key:?} is in\n{written}");
            }
            let layer = Layer::parse("config.toml", &written).unwrap();
            assert_eq!(resolve_quietly(Some(layer), &Sources::default()).unwrap(), (config, notes));
        }
        let pairs = ["schedule.kind=wsd", "data.input=[\"Cargo.toml\"]", "cost.price_per_kwh=0.3"];
        let written = noted(&pairs).0.to_toml();
        for key in
            ["decay_fraction", "min_learning_rate", "text_field", "vocab_size", "recompute", "currency"]
        {
            assert!(written.contains(key), "{key} is not in\n{written}");
        }
    }

    #[test]
    fn a_prepared_folder_leaves_the_keys_of_preparation_without_effect() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dataset.json"), "{}").unwrap();
        let folder = format!("data.dir={:?}", dir.path());
        let pairs = [&folder, "data.val_fraction=0", "tokenizer.kind=chars", "early_stop.patience=3"];
        let set = pairs.map(str::to_owned).to_vec();
        let (config, notes) = resolve_quietly(None, &Sources { set, ..Sources::default() }).unwrap();
        let starts = [
            "data.val_fraction = 0.0: has no effect where data.dir is set",
            "tokenizer.kind = \"chars\": has no",
        ];
        assert_eq!(notes.len(), starts.len(), "{notes:?}");
        assert!(notes.iter().zip(starts).all(|(note, start)| note.starts_with(start)), "{notes:?}");
        let written = config.to_toml();
        // Whether the folder has text held out is its own affair.
        assert!(written.contains("patience = 3"), "{written}");
        for key in ["val_fraction", "kind = \"chars\"", "vocab_size = 2048", "embedded", "cache_dir"] {
            assert!(!written.contains(key), "{key} is in\n{written}");
        }
    }

    #[test]
    fn later_sources_win() {
        let sources = Sources {
            preset: Some(Preset::Article),
            set: vec!["model.n_layers=2".to_owned(), "run.name=mine".to_owned()],
            ..Sources::default()
        };
        let config = resolve(None, &sources).unwrap();
        assert_eq!((config.model.n_layers, config.model.d_model), (2, 512));
        assert_eq!(config.run.name, "mine");
    }

    #[test]
    fn all_faults_come_in_one_report_each_with_its_remedy() {
        let faults = set(&[
            "model.n_layer=6",
            "modell.n_layers=6",
            "train.batch_size=many",
            "energy.metrics_addr=localhost:2",
            "nonsense",
            "model.n_heads=5",
        ])
        .unwrap_err()
        .join("\n");
        for part in [
            "model.n_heads = 5: does not divide",
            "unknown key \"model.n_layer\"; did you mean \"model.n_layers\"?",
            "unknown section \"modell\"; did you mean \"model\"?",
            "train.batch_size = \"many\": expected a whole number",
            "energy.metrics_addr = \"localhost:2\": expected an IP address and a port, such as \"127.0.0.1:9184\"",
            "--set nonsense: expected section.key=value",
        ] {
            assert!(faults.contains(part), "{part:?} is not in\n{faults}");
        }
        let faults = set(&["model.n_heads=5", "optimizer.learning_rate=-1", "run.name=a/b"]).unwrap_err();
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn no_type_of_the_language_is_named() {
        for (pair, expected) in [
            ("train.batch_size=many", "expected a whole number of at least 0"),
            ("train.batch_size=-1", "expected a whole number of at least 0"),
            ("train.max_steps=1e4", "expected a whole number of at least 0, such as 10000"),
            ("train.max_steps=1.5", "expected a whole number of at least 0"),
            ("run.seed=one", "expected a whole number"),
            ("optimizer.learning_rate=fast", "expected a number"),
            ("model.dropout=yes", "expected a number"),
            ("model.bias=yes", "expected true or false"),
            ("model.bias=1", "expected true or false"),
            ("run.name=3", "expected a text in quotes"),
            ("data.dir=3", "expected a text in quotes"),
            ("data.input=mine.txt", "expected a list of files, such as --set 'data.input=[\"mine.txt\"]'"),
            ("data.input=[1]", "expected a list of files"),
            ("tokenizer.kind=words", "expected \"bytes\", \"chars\", \"bpe\" or \"file\""),
            ("precision.dtype=f16", "expected \"f32\", \"bf16\" or \"fp8\""),
            ("precision.dtype=16", "expected \"f32\", \"bf16\" or \"fp8\""),
            (
                "model.family=[1]",
                "expected \"gpt2\", \"llama\", \"qwen2\", \"qwen3\", \"mistral\", \"olmo2\" or \"wattle\"",
            ),
            ("energy.interval_ms=often", "expected a whole number"),
            ("early_stop.target_loss=low", "expected a number"),
        ] {
            let said = set(&[pair]).unwrap_err().join("\n");
            assert!(said.contains(expected), "{pair}: {said}");
            for word in ["invalid type", "u64", "usize", "f64", "f32,", "string", "sequence", "variant"] {
                assert!(!said.contains(word), "{pair}: {said}");
            }
        }
    }

    #[test]
    fn no_default_is_invalid_beside_a_setting() {
        for pairs in [
            &["optimizer.learning_rate=3e-5"][..],
            &["optimizer.kind=adam"],
            &["optimizer.kind=muon"],
            &["model.d_model=90"],
            &["model.d_model=90", "model.family=llama"],
            &["tokenizer.file=\"Cargo.toml\""],
        ] {
            set(pairs).unwrap_or_else(|faults| panic!("{pairs:?}: {faults:?}"));
        }
        let config = set(&["optimizer.learning_rate=3e-5"]).unwrap();
        assert_eq!(config.schedule.min_learning_rate, Some(3e-6));
        assert!(config.to_toml().contains("min_learning_rate = 0.000003\n"), "{}", config.to_toml());
        let clipped = set(&["optimizer.learning_rate=3e-5", "schedule.min_learning_rate=1e-4"]).unwrap();
        assert_eq!(clipped.schedule.min_learning_rate, Some(3e-5));
        assert_eq!(set(&["optimizer.kind=adam"]).unwrap().optimizer.weight_decay, 0.0);
        let fp8 = |key: &str| set(&["precision.dtype=fp8", key]);
        assert!(fp8("model.d_model=128").is_ok());
        for (key, remedy) in [
            ("model.d_model=120", "change model.d_model, or set precision.dtype = \"bf16\""),
            ("model.context=100", "change model.context"),
            ("train.engine=autograd", "set train.engine to \"auto\""),
        ] {
            let faults = fp8(key).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(remedy), "{faults:?}");
        }
        // What is asked for is not changed in silence.
        let faults = set(&["optimizer.kind=adam", "optimizer.weight_decay=0.1"]).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains("plain Adam has none"), "{faults:?}");
        assert!(set(&["model.n_heads=4", "model.d_model=90"]).is_err());
    }

    #[test]
    fn no_presets_value_is_invalid_beside_a_setting() {
        for preset in <Preset as clap::ValueEnum>::value_variants() {
            for pairs in [
                &["model.family=llama"][..],
                &["train.batch_size=1"],
                &["tokenizer.vocab_size=60000"],
                &["optimizer.learning_rate=1e-6"],
                &["optimizer.kind=adam"],
                &["model.d_model=60"],
            ] {
                let input = "data.input=[\"Cargo.toml\"]";
                let set = pairs.iter().chain(&[input]).map(|&pair| pair.to_owned()).collect();
                let sources = Sources { preset: Some(*preset), set, ..Sources::default() };
                let config =
                    resolve(None, &sources).unwrap_or_else(|f| panic!("{preset:?} {pairs:?}: {f:?}"));
                let layer = Layer::parse("config.toml", &config.to_toml()).unwrap();
                assert_eq!(resolve(Some(layer), &Sources::default()).unwrap(), config);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dataset.json"), "{}").unwrap();
        let set = vec![format!("data.dir={:?}", dir.path())];
        let sources = Sources { preset: Some(Preset::ShakespeareChar), set, ..Sources::default() };
        assert!(resolve(None, &sources).unwrap().data.input.is_empty());
    }

    #[test]
    fn presets_keep_the_minimum_of_their_learning_rate() {
        for (preset, expected) in [
            (Preset::Default, Some(1e-4)),
            (Preset::ShakespeareChar, Some(1e-4)),
            (Preset::Gpt2Small, Some(6e-5)),
            // Its learning rate is constant.
            (Preset::Article, None),
        ] {
            let set = vec!["data.input=[\"Cargo.toml\"]".to_owned()];
            let sources = Sources { preset: Some(preset), set, ..Sources::default() };
            assert_eq!(resolve(None, &sources).unwrap().schedule.min_learning_rate, expected);
        }
    }

    #[test]
    fn a_preset_or_a_run_named_as_a_file_gets_a_hint() {
        let given = |file: &Path| {
            let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
            resolve(None, &sources).unwrap_err().join("\n")
        };
        let said = given(Path::new("default"));
        assert!(said.contains("did you mean --preset default?"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        assert!(given(dir.path()).contains("it is a folder"));
        std::fs::write(dir.path().join("config.toml"), "").unwrap();
        let said = given(dir.path());
        assert!(said.contains("--resume --out") && said.contains("config.toml"), "{said}");
        let file = dir.path().join("marked.toml");
        std::fs::write(&file, "\u{feff}[model]\nn_layers = 2\n").unwrap();
        let sources = Sources { file: Some(file), ..Sources::default() };
        assert_eq!(resolve(None, &sources).unwrap().model.n_layers, 2);
    }

    #[test]
    fn a_resumed_run_may_change_how_long_and_how_metered_but_not_what() {
        let stored = set(&[]).unwrap();
        let longer = set(&[
            "train.max_steps=9",
            "train.epochs=2",
            "train.threads=1",
            "train.log_every=5",
            "energy.interval_ms=100",
            "budget.max_energy_kwh=1.0",
            "checkpoint.keep=1",
            "carbon.region=FRA",
            "cost.price_per_kwh=0.3",
        ])
        .unwrap();
        assert_eq!(differences(&stored, &longer), Vec::<String>::new());
        let other = set(&["model.n_layers=6", "early_stop.target_loss=1.0"]).unwrap();
        assert_eq!(
            differences(&stored, &other),
            ["early_stop.target_loss: not set in the run, 1.0 now", "model.n_layers: 4 in the run, 6 now"]
        );
        // A key that has no effect makes no difference.
        let idle = set(&["schedule.decay_fraction=0.5"]).unwrap();
        assert_eq!(differences(&stored, &idle), Vec::<String>::new());
    }
}

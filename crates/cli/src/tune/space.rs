//! What is tried.

use wattle_meter::BoardLimits;
use wattle_model::Recompute;
use wattle_session::Config;
use wattle_session::threads::n_processors;
use wattle_settings::Choices;
use wattle_train::config::{EngineChoice, Precision};
use wattle_tune::{Axis, Settings};

use crate::args::TuneArgs;

/// Power limits or clocks of the first race.
const N_VALUES: u32 = 6;
/// Micro-batches that are tried: the whole batch, its half, and so on.
const N_MICRO_BATCHES: u32 = 5;
/// So many of the largest micro-batches are tried with recomputation where they do not fit without.
const N_RECOMPUTED: usize = 2;

/// What `args` ask to be tried, besides what is always tried.
pub fn axes(
    args: &TuneArgs,
    config: &Config,
    is_cpu: bool,
    board: Option<&BoardLimits>,
) -> anyhow::Result<Vec<Axis>> {
    let mut axes = Vec::new();
    if let Some(names) = &args.precision {
        axes.push(precision(&names.0, config));
    }
    axes.push(micro_batch(config, is_cpu));
    if is_cpu {
        axes.push(threads(config, n_processors()));
    }
    if let (Some(values), Some(board)) = (&args.clock, board) {
        let values_mhz = if values.0.is_empty() { board.clocks(N_VALUES)? } else { sorted(values.0.clone()) };
        axes.push(Axis::Clock { values_mhz });
    }
    if let (Some(values), Some(board)) = (&args.power, board) {
        let given = sorted(values.0.iter().map(|watts| watts.saturating_mul(1000)).collect());
        axes.push(Axis::PowerLimit {
            values_mw: if given.is_empty() { board.limits(N_VALUES)? } else { given },
        });
    }
    axes.retain(|axis| !matches!(axis, Axis::Settings { values, .. } if values.len() < 2));
    Ok(axes)
}

fn sorted(mut values: Vec<u32>) -> Vec<u32> {
    values.sort_unstable();
    values.dedup();
    values
}

/// Values of a key, the configuration's own first.
fn settings<'a>(key: &str, own: &str, others: impl Iterator<Item = &'a str>) -> Vec<Settings> {
    let set = |value: &str| Settings {
        label: value.to_owned(),
        set: vec![(key.to_owned(), value.to_owned())],
        instead_of: None,
    };
    let own_values = Settings { label: own.to_owned(), ..Settings::default() };
    std::iter::once(own_values).chain(others.filter(|value| *value != own).map(set)).collect()
}

fn precision(names: &[Precision], config: &Config) -> Axis {
    let names: Vec<&str> = match names {
        [] => Precision::CHOICES.iter().map(|choice| choice.name).collect(),
        names => names.iter().map(|precision| precision.name()).collect(),
    };
    let values = settings("precision.dtype", config.precision.dtype.name(), names.into_iter());
    Axis::Settings { name: "precision".to_owned(), values }
}

fn threads(config: &Config, n_processors: usize) -> Axis {
    let of = |threads: usize| if threads == 0 { n_processors } else { threads };
    let own = of(config.train.threads);
    let halves = std::iter::successors(Some(n_processors), |n| (*n > 1).then_some(n / 2));
    let names: Vec<String> = halves.map(|n| n.to_string()).collect();
    let values = settings("train.threads", &own.to_string(), names.iter().map(String::as_str));
    Axis::Settings { name: "threads".to_owned(), values }
}

/// Micro-batches; recomputation, which costs time, is tried for large ones that do not fit without.
fn micro_batch(config: &Config, is_cpu: bool) -> Axis {
    let (batch, own) = (config.train.batch_size, config.train.micro_batch());
    let own_recompute = config.train.recompute;
    let label = |micro: usize, recompute: Recompute| match recompute {
        Recompute::None => micro.to_string(),
        recompute => format!("{micro}, recomputing {}", recompute.name()),
    };
    let mut values = vec![Settings { label: label(own, own_recompute), ..Settings::default() }];
    let sizes = (0..N_MICRO_BATCHES).map(|halvings| batch.div_ceil(1 << halvings));
    let mut sizes: Vec<usize> = sizes.collect();
    sizes.dedup();
    // Autograd has no recomputation; it is what a CPU has for bf16.
    let is_autograd = match config.train.engine {
        EngineChoice::Autograd => true,
        EngineChoice::Auto => is_cpu && config.precision.dtype == Precision::Bf16,
        EngineChoice::Explicit => false,
    };
    for (idx, &micro) in sizes.iter().enumerate() {
        // The one with less recomputation, if it is tried.
        let mut lighter = None;
        for recompute in [Recompute::None, Recompute::Mlp, Recompute::Block] {
            let is_tried = recompute == own_recompute
                || (!is_autograd && (recompute == Recompute::None || idx < N_RECOMPUTED));
            if (micro, recompute) == (own, own_recompute) {
                lighter = Some(0);
                continue;
            }
            if !is_tried {
                continue;
            }
            let size = if micro == batch { 0 } else { micro };
            let mut set = vec![("train.micro_batch_size".to_owned(), size.to_string())];
            if recompute != own_recompute {
                set.push(("train.recompute".to_owned(), format!("{:?}", recompute.name())));
            }
            values.push(Settings { label: label(micro, recompute), set, instead_of: lighter });
            lighter = Some(values.len() - 1);
        }
    }
    Axis::Settings { name: "micro-batch".to_owned(), values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        let Axis::Settings { values, .. } = axis else { panic!("{axis:?}") };
        values.iter().map(|value| value.label.as_str()).collect()
    }

    #[test]
    fn the_configuration_comes_first_and_recomputation_makes_room_for_large_micro_batches() {
        let mut config = Config::default();
        (config.train.batch_size, config.train.micro_batch_size) = (12, 3);
        let axis = micro_batch(&config, true);
        let expected = [
            "3",
            "12",
            "12, recomputing mlp",
            "12, recomputing block",
            "6",
            "6, recomputing mlp",
            "6, recomputing block",
            "2",
            "1",
        ];
        assert_eq!(labels(&axis), expected);
        let Axis::Settings { values, .. } = &axis else { panic!("{axis:?}") };
        let instead_of: Vec<_> = values.iter().map(|value| value.instead_of).collect();
        assert_eq!(instead_of, [None, None, Some(1), Some(2), None, Some(4), Some(5), None, None]);
        config.precision.dtype = Precision::Bf16;
        assert_eq!(labels(&micro_batch(&config, true)), ["3", "12", "6", "2", "1"]);
        assert_eq!(labels(&micro_batch(&config, false)), expected);
        config.train.engine = EngineChoice::Autograd;
        assert_eq!(labels(&micro_batch(&config, true)), ["3", "12", "6", "2", "1"]);
        config.train.batch_size = 1;
        config.train.micro_batch_size = 0;
        assert_eq!(labels(&micro_batch(&config, true)), ["1"]);
    }

    #[test]
    fn threads_are_halved_from_all_processors() {
        assert_eq!(labels(&threads(&Config::default(), 12)), ["12", "6", "3", "1"]);
    }
}

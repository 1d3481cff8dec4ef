//! `wattle estimate`: what a run would cost that no machine here can do.

use std::path::Path;

use wattle_meter::books::carbon;
use wattle_meter::{CarbonConfig, Tariff};
use wattle_report::Run;
use wattle_report::estimate::{self, Plan, amount, gpu};
use wattle_report::scaling::{self, BACKWARD_SHARE, Cluster, Measured, Network, Strategy};

use crate::args::{EstimateArgs, NetworkPer, ScalingArgs};
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line};

/// Plans a run on paper, or scales a measured step to many GPUs.
pub fn run(args: &EstimateArgs) -> anyhow::Result<Exit> {
    if let (Some(run), Some(network)) = (&args.scaling.run, args.scaling.network) {
        return scale(run, network, args);
    }
    let estimate = plan(args)?.estimate();
    if args.json {
        print_line(&estimate.to_json())?;
    } else {
        print(&estimate::text(&estimate))?;
    }
    Ok(Exit::Done)
}

/// What many GPUs would do with the step of a run.
fn scale(run: &Path, network: f64, args: &EstimateArgs) -> anyhow::Result<Exit> {
    let measured = Measured::of(&Run::open(run)?).map_err(anyhow::Error::msg)?;
    let scaling = cluster(measured, network, args)?.simulate();
    if args.json {
        print_line(&scaling.to_json())?;
    } else {
        print(&scaling::text(&scaling))?;
    }
    Ok(Exit::Done)
}

/// The cluster, or everything that is wrong with the arguments.
fn cluster(measured: Measured, network: f64, args: &EstimateArgs) -> Result<Cluster, BadUsage> {
    let ScalingArgs { gpus_per_machine, .. } = args.scaling;
    let given = &args.scaling;
    let machine_gbits = match given.network_per {
        NetworkPer::Gpu => network * gpus_per_machine as f64,
        NetworkPer::Machine => network,
    };
    let network = Network {
        gpus_per_machine,
        machine_gbits,
        nvlink_gbytes: given.nvlink,
        nvlink_hop_us: given.nvlink_hop_us,
        network_hop_us: given.network_hop_us,
        two_level: given.two_level,
    };
    let strategy = Strategy {
        gradient_bytes: given.gradient_bytes,
        weight_bytes: given.weight_bytes,
        shard: given.shard,
        bucket_bytes: given.bucket_mb * 1e6,
        backward_share: given.backward_share.unwrap_or(BACKWARD_SHARE),
        overlap: given.overlap,
        gather_under_forward: given.gather_under_forward,
        waiting_share: given.waiting_share,
    };
    let cluster = Cluster { measured, network, strategy, gpus: args.gpus };
    match cluster.faults() {
        faults if faults.is_empty() => Ok(cluster),
        faults => Err(BadUsage { faults }),
    }
}

/// The plan, or everything that is wrong with the arguments.
fn plan(args: &EstimateArgs) -> Result<Plan, BadUsage> {
    let (params, tokens, gpu) = (required(&args.params), required(&args.tokens), required(&args.gpu));
    let mut faults = Vec::new();
    let params = amount("--params", params).map_err(|fault| faults.push(fault));
    let tokens = amount("--tokens", tokens).map_err(|fault| faults.push(fault));
    let gpu = gpu::find(gpu).map_err(|fault| faults.push(fault));
    let config = CarbonConfig { region: args.region.clone(), ..CarbonConfig::default() };
    let carbon = carbon::resolve(&config)
        .map_err(|error| faults.push(error.to_string().replace("carbon.region", "--region")));
    let (Ok(params), Ok(tokens), Ok(gpu), Ok(carbon)) = (params, tokens, gpu, carbon) else {
        return Err(BadUsage { faults });
    };
    let tariff = args.price_per_kwh.map(|per_kwh| Tariff { per_kwh, currency: args.currency.clone() });
    let plan = Plan { params, tokens, gpu, gpus: args.gpus, mfu: args.mfu, pue: args.pue, carbon, tariff };
    match plan.faults() {
        faults if faults.is_empty() => Ok(plan),
        faults => Err(BadUsage { faults }),
    }
}

/// An argument without which there is no plan.
fn required(argument: &Option<String>) -> &str {
    argument.as_deref().expect("clap asks for it unless there is --run, which is handled before")
}

//! `wattle estimate`: what a run would cost that no machine here can do.

use wattle_meter::books::carbon;
use wattle_meter::{CarbonConfig, Tariff};
use wattle_report::estimate::{self, Plan, amount, gpu};

use crate::args::EstimateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line};

/// Plans a run on paper.
pub fn run(args: &EstimateArgs) -> anyhow::Result<Exit> {
    let estimate = plan(args)?.estimate();
    if args.json {
        print_line(&estimate.to_json())?;
    } else {
        print(&estimate::text(&estimate))?;
    }
    Ok(Exit::Done)
}

/// The plan, or everything that is wrong with the arguments.
fn plan(args: &EstimateArgs) -> Result<Plan, BadUsage> {
    let mut faults = Vec::new();
    let params = amount("--params", &args.params).map_err(|fault| faults.push(fault));
    let tokens = amount("--tokens", &args.tokens).map_err(|fault| faults.push(fault));
    let gpu = gpu::find(&args.gpu).map_err(|fault| faults.push(fault));
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

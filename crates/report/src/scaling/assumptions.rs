//! What a simulation rests on, each with its value and its source.

use crate::estimate::Assumption;
use crate::scaling::{Cluster, WAITING_SHARE, network};
use crate::words::quantity::{count, factor, percent, si, watts, whole_percent};

impl Cluster {
    /// What the simulation rests on.
    pub(crate) fn assumptions(&self) -> Vec<Assumption> {
        let assume = |what: &str, value: String, source: &str| Assumption {
            what: what.to_owned(),
            value,
            source: source.to_owned(),
        };
        let (network, strategy) = (&self.network, &self.strategy);
        let given = |is_default: bool, source: &str, flag: &str| match is_default {
            true => format!("{source}; {flag} for your own"),
            false => format!("as given, {flag}"),
        };
        let gradients = self.measured.parameters * strategy.gradient_bytes;
        let weights = self.measured.parameters * strategy.weight_bytes;
        let mut assumptions = self.measured_assumptions();
        assumptions.extend([
            assume(
                "reduced",
                format!("{} of gradients a GPU and step, {} bytes a parameter", si(gradients, "B"), factor(strategy.gradient_bytes)),
                "ZeRO-1, f32 gradients unless --gradient-bytes says otherwise",
            ),
            assume(
                "gathered",
                format!("{} of weights, {} bytes a parameter", si(weights, "B"), factor(strategy.weight_bytes)),
                "bf16 weights unless --weight-bytes says otherwise",
            ),
            assume(
                "network",
                format!("{} Gbit/s a machine of {} GPUs", factor(network.machine_gbits), network.gpus_per_machine),
                "as given, --network and --network-per; at its full rate",
            ),
            assume(
                "NVLink",
                format!("{} GB/s a GPU", factor(network.nvlink_gbytes)),
                &given(network.nvlink_gbytes == network::NVLINK_GBYTES, "H100 SXM: 450 by its data sheet, 365 to 370 in NCCL's rings, nccl#1455", "--nvlink"),
            ),
            assume(
                "hops",
                format!("{} µs over NVLink, {} µs over the network", factor(network.nvlink_hop_us), factor(network.network_hop_us)),
                "NCCL, src/graph/tuning.cc, ring, Simple, unless --nvlink-hop-us and --network-hop-us say otherwise",
            ),
            self.rings(),
            assume(
                "buckets",
                format!("{} of {}", self.buckets(), si(gradients / self.buckets(), "B")),
                "--bucket-mb; few, since every bucket pays all hops",
            ),
            assume(
                "overlap",
                format!(
                    "gradients beside {} of the backward pass, which is {} of the step; the last bucket always waits",
                    whole_percent(strategy.overlap),
                    whole_percent(strategy.backward_share)
                ),
                "four of six FLOPs, arXiv 2001.08361, unless --backward-share says otherwise; --overlap",
            ),
            assume(
                "gathers",
                match strategy.gather_under_forward {
                    true => "during the next forward pass, but for the first bucket".to_owned(),
                    false => "after AdamW, beside nothing".to_owned(),
                },
                "--gather-under-forward",
            ),
            assume(
                "waiting",
                format!("{} of a computing GPU's power", whole_percent(strategy.waiting_share)),
                &given(
                    strategy.waiting_share == WAITING_SHARE,
                    "derived from arXiv 2411.13055: 37.22 % fewer tokens a second at 5.87 % less power",
                    "--waiting-share",
                ),
            ),
            assume(
                "left out",
                "switches and network cards, the slowest GPU's lag, slower kernels beside collectives, AdamW made \
                 shorter by its shards, evaluation, checkpoints, restarts"
                    .to_owned(),
                "the published runs of the documentation show by how much",
            ),
        ]);
        assumptions
    }

    fn measured_assumptions(&self) -> Vec<Assumption> {
        let measured = &self.measured;
        let step = Assumption {
            what: "step".to_owned(),
            value: format!(
                "{} for {} tokens and {} parameters on one GPU, the same on each of them",
                si(measured.step_s.get(), "s"),
                count(measured.tokens.round() as u64),
                count(measured.parameters.round() as u64)
            ),
            source: format!("median of {} steps of {}", measured.steps, measured.run),
        };
        let power = match measured.power_w.zip(measured.estimated_share) {
            Some((power, share)) => Assumption {
                what: "power".to_owned(),
                value: format!("{} a GPU with all that the run metered", watts(power)),
                source: match share > 0.0 {
                    true => format!("the run's power trace between steps; {} estimated", percent(share)),
                    false => "the run's power trace between steps; measured".to_owned(),
                },
            },
            None => Assumption {
                what: "power".to_owned(),
                value: "unknown".to_owned(),
                source: "the run has no power trace; no joules are stated".to_owned(),
            },
        };
        vec![step, power]
    }

    fn rings(&self) -> Assumption {
        let shard = match self.strategy.shard {
            Some(shard) => format!("; state sharded among {shard} GPUs, shards added between the groups"),
            None => "; state sharded among all GPUs".to_owned(),
        };
        let (value, source) = match self.network.two_level {
            true => ("rings within machines, then between them", "--two-level"),
            false => (
                "one ring through all GPUs, machine by machine",
                "as NCCL builds it; --two-level for the other",
            ),
        };
        Assumption {
            what: "collectives".to_owned(),
            value: format!("{value}{shard}"),
            source: format!("{source}; --shard"),
        }
    }
}

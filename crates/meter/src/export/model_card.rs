//! The emissions of a model card, as Hugging Face reads them: grams, in YAML.
//!
//! # References
//! Hugging Face Hub documentation, "Displaying carbon emissions for your model"

use std::fmt::Write;

use wattle_runlog::Record;

use crate::books::carbon;

/// The `co2_eq_emissions` block of a model card's front matter, in **grams** of CO₂-equivalent.
///
/// `training_type` is "pre-training" or "fine-tuning"; `hardware` is what was computed on.
pub fn co2_eq_emissions(record: &Record, training_type: &str, hardware: &str) -> String {
    let place = carbon::find(&record.carbon.region)
        .filter(|country| country.iso3 != carbon::WORLD)
        .map(|country| country.name.as_str());
    let unmetered = match &record.unmetered_devices[..] {
        [] => String::new(),
        devices => format!(", without {} (not metered)", devices.join(", ")),
    };
    let source = format!(
        "wattle {}, {:.0} % measured{unmetered}, {} g/kWh ({})",
        env!("CARGO_PKG_VERSION"),
        record.measured_fraction * 100.0,
        record.carbon.intensity_g_per_kwh.get(),
        record.carbon.source
    );
    let mut yaml = format!("co2_eq_emissions:\n  emissions: {}\n", record.emissions_g.get());
    let fields = [
        ("source", Some(source.as_str())),
        ("training_type", Some(training_type)),
        ("geographical_location", place),
        ("hardware_used", Some(hardware)),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            // A JSON string is a YAML string, whatever it holds.
            let quoted = serde_json::Value::from(value);
            writeln!(yaml, "  {key}: {quoted}").expect("a string takes what it is given");
        }
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::codecarbon::tests::record;

    #[test]
    fn grams_stand_in_the_card() {
        let mut record = record();
        let yaml = co2_eq_emissions(&record, "pre-training", "1 × \"NVIDIA\" H200");
        assert_eq!(
            yaml,
            format!(
                "co2_eq_emissions:\n  emissions: 900\n  source: \"wattle {}, 0 % measured, 400 g/kWh \
                 (carbon.intensity_g_per_kwh)\"\n  training_type: \"pre-training\"\n  hardware_used: \"1 × \
                 \\\"NVIDIA\\\" H200\"\n",
                env!("CARGO_PKG_VERSION")
            )
        );
        record.unmetered_devices = vec!["cuda:0".to_owned()];
        assert!(
            co2_eq_emissions(&record, "x", "y")
                .contains("% measured, without cuda:0 (not metered), 400 g/kWh")
        );
        record.carbon.region = "SWE".to_owned();
        assert!(co2_eq_emissions(&record, "x", "y").contains("geographical_location: \"Sweden\"\n"));
    }
}

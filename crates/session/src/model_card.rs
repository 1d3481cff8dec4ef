//! The README.md of a checkpoint: a Hugging Face model card.

use wattle_meter::export::model_card::co2_eq_emissions;
use wattle_runlog::Record;
use wattle_runlog::event::EvaluateEvent;
use wattle_train::Draft;

use wattle_report::words::describe::describe_energy;
use wattle_report::words::quantity::{count, joules};

/// What a card says that does not change within a run.
pub struct ModelCard {
    /// The run's name.
    pub name: String,
    /// The run's id.
    pub run_id: String,
    /// The model's family.
    pub family: String,
    /// Number of parameters.
    pub n_parameters: u64,
    /// What it is trained on.
    pub data: String,
    /// Whose weights it started from; none if it was trained from nothing.
    pub base_model: Option<String>,
    /// What it is trained with.
    pub hardware: String,
    /// Whether its parameters are adapters' of the model that it started from.
    pub is_adapter: bool,
}

impl ModelCard {
    /// The card of one checkpoint.
    pub fn to_markdown(
        &self,
        draft: &Draft,
        evaluation: Option<&EvaluateEvent>,
        record: Option<&Record>,
    ) -> String {
        let Self { run_id, family, n_parameters, base_model, .. } = self;
        let [name, data, hardware] = [&self.name, &self.data, &self.hardware].map(|text| plain(text));
        let emissions = record.map_or(String::new(), |record| {
            // The card speaks of the model, so of the run up to it and not of its last epoch.
            let mut whole = record.clone();
            whole.emissions_g = record.cumulative.emissions_g;
            let training_type = if base_model.is_some() { "fine-tuning" } else { "pre-training" };
            co2_eq_emissions(&whole, training_type, &self.hardware)
        });
        let loss = match (evaluation, draft.val_loss) {
            (Some(evaluation), Some(loss)) => format!(
                "| validation loss | {loss:.4} nats a token |\n\
                 {}\
                 | next-token accuracy | {:.1} % |\n",
                bits_per_byte(evaluation.bits_per_byte),
                evaluation.accuracy * 100.0
            ),
            _ => String::new(),
        };
        let unmetered = record.map_or(&[][..], |record| &record.unmetered_devices);
        let unmetered = match unmetered {
            [] => String::new(),
            devices => {
                format!(
                    "| not metered | {}: missing from energy and emissions |\n",
                    plain(&devices.join(", "))
                )
            }
        };
        let base =
            base_model.as_ref().map_or(String::new(), |base| format!("| started from | {} |\n", plain(base)));
        let energy = record.map_or("not known".to_owned(), |record| {
            format!(
                "{} in all; its last stretch: {}",
                joules(record.cumulative.energy_j),
                plain(&describe_energy(record).join(", "))
            )
        });
        format!(
            "---\nlibrary_name: {library}\npipeline_tag: text-generation\n{emissions}---\n\n\
             # {name}, step {step}\n\n\
             A {family} {what} of {parameters} parameters, trained by wattle.\n\n\
             | | |\n|---|---|\n\
             | run | {run_id} |\n\
             {base}\
             | data | {data} |\n\
             | hardware | {hardware} |\n\
             | steps | {step} (epoch {epoch}) |\n\
             | tokens | {tokens} |\n\
             {loss}\
             | energy | {energy} |\n\
             {unmetered}\n\
             `emissions.json` beside this file says how each figure was arrived at.\n",
            library = if self.is_adapter { "peft" } else { "transformers" },
            what = if self.is_adapter { "model's low-rank adapter" } else { "model" },
            step = draft.step,
            epoch = draft.epoch,
            parameters = count(*n_parameters),
            tokens = count(draft.tokens),
        )
    }
}

/// `text` in a cell of a Markdown table, where it is itself: neither HTML, nor a link, nor the end of the cell.
fn plain(text: &str) -> String {
    let escape = |c: char| match c {
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '|' | '[' | ']' | '`' | '\\' => format!("\\{c}"),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// A row of bits per byte, if they are known.
fn bits_per_byte(bits: f64) -> String {
    if bits.is_finite() { format!("| bits per byte | {bits:.4} |\n") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_or_a_driver_says_is_no_markup() {
        assert_eq!(
            plain("NVIDIA H100 80GB HBM3, my_texts/größe.txt"),
            "NVIDIA H100 80GB HBM3, my_texts/größe.txt"
        );
        assert_eq!(
            plain("<img src=x onerror=alert(1)>|[a](b)`c`\n## d & \\"),
            "&lt;img src=x onerror=alert(1)&gt;\\|\\[a\\](b)\\`c\\`\\n## d &amp; \\\\"
        );
    }
}

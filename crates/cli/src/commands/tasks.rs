//! `wattle evaluate --tasks`: scores on items with a right answer.

use std::path::Path;

use candle_core::DType;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use wattle_meter::WindowEnergy;
use wattle_report::words::describe::describe_window;
use wattle_report::words::quantity::count;
use wattle_report::words::table::{Table, hang};
use wattle_runlog::score::TASK_RESULT_SCHEMA;
use wattle_runlog::{LineFile, RunlogError, Score, TaskResult, TaskScores, WallAnchor};
use wattle_session::checkpoint::OpenCheckpoint;
use wattle_session::metered::Metered;
use wattle_session::need;
use wattle_train::TrainState;
use wattle_train::tasks::{Answer, Exam, MAX_BATCH, answers, decoder, scores};

use crate::args::EvaluateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line};

/// Scores a checkpoint on the tasks in `args`. In a run directory the scores are kept.
pub fn run(args: &EvaluateArgs, bar: &ProgressBar) -> anyhow::Result<Exit> {
    if !(1..=MAX_BATCH).contains(&args.batch_size) {
        let fault = format!("--batch-size {}: expected 1 to {MAX_BATCH}", args.batch_size);
        return Err(BadUsage { faults: vec![fault] }.into());
    }
    let device = args.device.open()?;
    let board = device.board()?;
    let metered = Metered::start(&device.compute);
    let home = device.home_of_parameters(board.as_ref());
    let checkpoint =
        OpenCheckpoint::open(&args.checkpoint, args.adapter.as_deref(), home.as_ref().unwrap_or(&device))?;
    let OpenCheckpoint { model, config, tokenizer, .. } = &checkpoint;
    let exam = Exam::read(&args.tasks, tokenizer, model.context())?;
    if device.device.is_cpu() {
        need::generation(config, config.vocab_size, exam.room(), 0).check()?;
    }
    let dtype: DType = args.dtype.into();
    let mut decoder = decoder(model.as_ref(), board.as_ref(), dtype, args.batch_size, exam.room())?;
    bar.set_length(exam.n_items() as u64);
    let answers = answers(&exam, decoder.as_mut(), tokenizer, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let scores: Vec<_> =
        exam.tasks.iter().zip(&answers).map(|(task, answers)| scores(task, answers)).collect();
    let engine = decoder.describe();
    let energy = metered.finish();
    keep(&checkpoint.path, &scores, &engine, energy.as_ref());
    match args.json {
        true => {
            print_line(&format!("{:#}", report(&checkpoint, &exam, &scores, &answers, &engine, &energy)))?;
        }
        false => print(&describe(&scores, &engine, exam.n_tokens(), energy.as_ref()))?,
    }
    Ok(Exit::Done)
}

/// Adds the scores of a run's checkpoint to the run's `tasks.jsonl`. What cannot be kept is said, and shown all the same.
fn keep(checkpoint: &Path, scores: &[TaskScores], engine: &str, energy: Option<&WindowEnergy>) {
    let Some((run, state)) = run_of(checkpoint) else { return };
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let result = TaskResult {
        schema: TASK_RESULT_SCHEMA.to_owned(),
        checkpoint: format!("checkpoints/{name}"),
        step: state.step,
        segment: state.segment,
        t_ns: state.t_ns,
        evaluated_at: WallAnchor::now().rfc3339(),
        engine: engine.to_owned(),
        energy_j: energy.map(|window| window.energy),
        tasks: scores.to_vec(),
    };
    let path = run.join("tasks.jsonl");
    let written = (|| {
        let (mut file, _) = LineFile::open(&path, TaskResult::from_json)?;
        file.append(&result.to_json())?;
        file.sync()
    })();
    match written {
        Ok(()) => tracing::info!("kept in {}", path.display()),
        Err(error) => {
            let error: RunlogError = error;
            tracing::warn!("the scores are not kept: {error}");
        }
    }
}

/// The run that a checkpoint belongs to, and the state of training there.
fn run_of(checkpoint: &Path) -> Option<(&Path, TrainState)> {
    let folder = checkpoint.parent()?;
    let run = folder.parent()?;
    let is_run = folder.ends_with("checkpoints") && run.join("events.jsonl").is_file();
    is_run.then(|| TrainState::read(checkpoint).ok().map(|state| (run, state))).flatten()
}

fn report(
    checkpoint: &OpenCheckpoint,
    exam: &Exam,
    scores: &[TaskScores],
    answers: &[Vec<Answer>],
    engine: &str,
    energy: &Option<WindowEnergy>,
) -> Value {
    let of_task =
        |((task, scores), answers): ((&wattle_train::tasks::exam::ExamTask, &TaskScores), &Vec<Answer>)| {
            let mut report = json!(scores);
            report["file"] = json!(task.task.path);
            report["answers"] = json!(answers);
            report
        };
    let energy = energy.as_ref();
    json!({
        "schema": "wattle.task_evaluation/1",
        "checkpoint": checkpoint.path,
        "tasks": exam.tasks.iter().zip(scores).zip(answers).map(of_task).collect::<Vec<_>>(),
        "context": checkpoint.model.context(),
        "engine": engine,
        "energy_j": energy.map(|window| window.energy),
        "energy_uncertainty_j": energy.map(|window| window.uncertainty),
        "measured_fraction": energy.map(|window| window.measured_fraction),
        "unmetered_devices": energy.map(|window| &window.unmetered_devices),
    })
}

fn describe(scores: &[TaskScores], engine: &str, n_tokens: u64, energy: Option<&WindowEnergy>) -> String {
    let mut table = Table::new(["task", "kind", "metric", "score", "± stderr", "items"], &[0, 1, 2]);
    for task in scores {
        for (i, score) in task.scores.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            table.row([
                first(task.task.clone()),
                first(task.kind.clone()),
                score.metric.clone(),
                shown(score, score.value),
                score.stderr.map(|error| shown(score, error)).unwrap_or_default(),
                first(count(task.items)),
            ]);
        }
    }
    let mut lines = table.lines();
    for task in scores.iter().filter(|task| task.truncated > 0) {
        let words = format!(
            "{}: {} of {} items are longer than the model's context; their first tokens were left out",
            task.task,
            count(task.truncated),
            count(task.items)
        );
        lines.extend(hang("  ! ", &words));
    }
    lines.push(String::new());
    lines.extend(hang("engine       ", engine));
    if let Some(window) = energy {
        lines.extend(hang("energy       ", &describe_window(window, n_tokens)));
    }
    lines.join("\n") + "\n"
}

/// Shares in percent, perplexities as they are.
fn shown(score: &Score, value: f64) -> String {
    if score.metric == "perplexity" { format!("{value:.3}") } else { format!("{:.2} %", value * 100.0) }
}

//! Damaged files: whoever reads one says so and ends, or does without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::campaign::{Campaign, Ended, run};
use super::damage::Damage;
use super::seal;
use crate::workbench::{Workbench, expect};

/// A file, and the commands that read it. `train` among them stands for the small run with these arguments.
struct Reader {
    /// What it is called; `corpus/NAME/` holds files of it that are hostile already.
    name: &'static str,
    file: &'static str,
    /// Makes its checksums right.
    seal: fn(&[u8]) -> Vec<u8>,
    commands: &'static [&'static [&'static str]],
}

const fn reader(
    name: &'static str,
    file: &'static str,
    commands: &'static [&'static [&'static str]],
) -> Reader {
    Reader { name, file, seal: <[u8]>::to_vec, commands }
}

const RESUME: &[&str] = &["train", "--out", "run", "--resume", "--set", "train.max_steps=8"];
const GENERATE: &[&str] = &["generate", "run", "--prompt", "1 and", "--max-tokens", "3", "--device", "cpu"];
const EVALUATE: &[&str] = &["evaluate", "run", "--data", "data", "--device", "cpu"];
const EXPORT: &[&str] = &["export", "run", "--type", "q8_0", "--out", "again.gguf"];
const REPORT: &[&str] = &["report", "run"];
const PAGE: &[&str] = &["report", "run", "--html", "page.html"];
const COMPARE: &[&str] = &["compare", "run", "other", "--html", "compare.html"];

const READERS: [Reader; 25] = [
    reader(
        "config",
        "run/config.toml",
        &[&["train", "--dry-run", "run/config.toml"], RESUME, REPORT, COMPARE],
    ),
    reader(
        "sweep",
        "sweep.toml",
        &[&["sweep", "sweep.toml", "--out", "sweep", "--dry-run", "--device", "cpu"]],
    ),
    reader(
        "carbon",
        "carbon.csv",
        &[
            &["report", "run", "--reprice", "carbon.csv"],
            &[
                "train",
                "--out",
                "priced",
                "--set",
                "carbon.table=\"carbon.csv\"",
                "--set",
                "train.max_steps=1",
            ],
        ],
    ),
    reader(
        "calibrations",
        "calibrations.json",
        &[&[
            "train",
            "--out",
            "calibrated",
            "--set",
            "energy.calibration=\"calibrations.json\"",
            "--set",
            "train.max_steps=1",
        ]],
    ),
    reader("text", "text.txt", &[&["prepare", "text.txt", "--tokenizer", "bpe:300", "--out", "made"]]),
    reader("documents", "docs.jsonl", &[&["prepare", "docs.jsonl", "--tokenizer", "bytes", "--out", "made"]]),
    reader(
        "dataset",
        "data/dataset.json",
        &[EVALUATE, &["train", "--dry-run", "--set", "data.dir=\"data\"", "--set", "data.input=[]"]],
    ),
    reader("shard", "data/val-00000.bin", &[EVALUATE]),
    reader(
        "data-tokenizer",
        "data/tokenizer.json",
        &[EVALUATE, &["prepare", "text.txt", "--tokenizer", "data/tokenizer.json", "--out", "made"]],
    ),
    reader("model", "run/checkpoints/step-00000006/model.safetensors", &[GENERATE, EVALUATE, EXPORT, RESUME]),
    reader("optimizer", "run/checkpoints/step-00000006/optimizer.safetensors", &[RESUME]),
    reader("state", "run/checkpoints/step-00000006/state.json", &[RESUME, GENERATE]),
    Reader {
        seal: seal::state,
        ..reader("sealed-state", "run/checkpoints/step-00000006/state.json", &[RESUME, GENERATE])
    },
    reader("tokenizer", "run/checkpoints/step-00000006/tokenizer.json", &[GENERATE, EVALUATE, EXPORT]),
    reader("tokenizer-config", "run/checkpoints/step-00000006/tokenizer_config.json", &[GENERATE, EXPORT]),
    reader("generation-config", "run/checkpoints/step-00000006/generation_config.json", &[GENERATE]),
    reader("model-config", "run/checkpoints/step-00000006/config.json", &[GENERATE, EVALUATE, EXPORT]),
    reader("checkpoint-emissions", "run/checkpoints/step-00000006/emissions.json", &[RESUME, COMPARE]),
    reader("manifest", "run/manifest.json", &[REPORT, PAGE, COMPARE, RESUME]),
    reader("events", "run/events.jsonl", &[REPORT, PAGE, COMPARE, RESUME]),
    reader("emissions", "run/emissions.jsonl", &[REPORT, PAGE, COMPARE, RESUME]),
    reader("csv", "run/emissions.csv", &[REPORT, RESUME]),
    reader("trace", "run/power.trace", &[REPORT, PAGE, RESUME]),
    Reader { seal: seal::trace, ..reader("sealed-trace", "run/power.trace", &[REPORT, PAGE, RESUME]) },
    reader(
        "gguf",
        "model.gguf",
        &[
            &["generate", "model.gguf", "--prompt", "1 and", "--max-tokens", "3", "--device", "cpu"],
            &["evaluate", "model.gguf", "--text", "text.txt", "--device", "cpu"],
        ],
    ),
];

/// A file of one calibration.
const CALIBRATIONS: &str = r#"{"schema":"wattle.calibrations/1","calibrations":[{"id":"20261128-061500/gpu:GPU-1a2b",
"sensor":"gpu:GPU-1a2b","systematic_id":"gain/gpu:GPU-1a2b","made_at":"2026-11-28T06:15:00.000Z","gain":1.043,
"gain_uncertainty":0.012,"from":{"run_id":"run-1","log":"plug.csv","readings":600,"wall_per_sensor":1.134,
"wall_per_sensor_uncertainty":0.002,"psu_efficiency":0.92,"psu_uncertainty":0.01,"meter_accuracy":0.005}}]}"#;

fn command(bench: &Workbench, args: &[&str]) -> Command {
    match args {
        ["train", rest @ ..] if !rest.iter().any(|arg| arg.ends_with(".toml")) => {
            bench.train(&[rest, &["--set", "schedule.kind=constant"]].concat())
        }
        _ => bench.wattle(args),
    }
}

/// One file of each kind, all of them whole.
fn whole() -> Workbench {
    let bench = Workbench::in_memory();
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("docs.jsonl"), format!("{{\"id\":1,\"text\":{text:?}}}\n").repeat(3)).unwrap();
    let now = jiff::Timestamp::now();
    let row = |hour: i64| format!("{},{}\n", now + jiff::SignedDuration::from_hours(hour - 2), 100 * hour);
    fs::write(
        bench.join("carbon.csv"),
        format!("timestamp,g_per_kwh\n{}", (0..4).map(row).collect::<String>()),
    )
    .unwrap();
    let sweep = "config = \"run/config.toml\"\nseeds = [1, 2]\ntarget_loss = 2.5\n[set]\ntrain.max_steps = 2\n\
                 [[strategy]]\nname = \"base\"\n[[strategy]]\nname = \"small\"\nmodel.d_model = 8\n\
                 [matrix]\ntrain.batch_size = [4, 8]\n";
    fs::write(bench.join("sweep.toml"), sweep).unwrap();
    fs::write(bench.join("calibrations.json"), CALIBRATIONS).unwrap();
    let steps = ["--set", "train.max_steps=6"];
    for out in ["run", "other"] {
        expect(0, command(&bench, &[&["train", "--out", out], &steps[..]].concat()));
    }
    expect(
        0,
        bench.wattle(&[
            "prepare",
            "text.txt",
            "--tokenizer",
            "run/checkpoints/latest/tokenizer.json",
            "--out",
            "data",
        ]),
    );
    expect(0, bench.wattle(&["export", "run", "--type", "f16", "--out", "model.gguf"]));
    for reader in &READERS {
        for args in reader.commands {
            assert!(bench.join(reader.file).exists(), "{}", reader.file);
            // Each reads its file when it is whole, or damage to it would say nothing.
            let before = Workbench::in_memory();
            before.fill_from(&bench);
            expect(0, command(&bench, args));
            bench.fill_from(&before);
        }
    }
    bench
}

/// What stands where the whole file was.
enum Damaged {
    Bytes(Vec<u8>),
    Nothing,
    Folder,
    /// A link to itself.
    Loop,
}

impl Damaged {
    fn put(&self, path: &Path) {
        fs::remove_file(path).unwrap();
        match self {
            Self::Bytes(bytes) => fs::write(path, bytes).unwrap(),
            Self::Nothing => {}
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Loop => std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap(),
        }
    }
}

#[test]
fn a_damaged_file_is_refused_or_done_without() {
    let (bench, whole) = (whole(), Workbench::in_memory());
    whole.fill_from(&bench);
    let mut campaign = Campaign::new("damaged files");
    let cases = fuzz::size("WATTLE_FUZZ_CASES", 2);
    for (reader, seed) in READERS.iter().zip(0..) {
        let mut damage = Damage::new(seed);
        let seeds = seeds(reader, &whole);
        let hostile = seeds.iter().skip(1).cloned().map(Damaged::Bytes);
        let other = [Damaged::Nothing, Damaged::Folder, Damaged::Loop].into_iter();
        let random = (0..cases).map(|_| {
            // Half of them are damage to the whole file.
            let seed = &seeds[damage.below(2) * damage.below(seeds.len())];
            Damaged::Bytes((reader.seal)(&damage.of(seed)))
        });
        for (damaged, number) in other.chain(hostile).chain(random).zip(0..) {
            let replace = || {
                bench.fill_from(&whole);
                damaged.put(&bench.join(reader.file));
            };
            // Each of its readers in turn.
            let args = reader.commands[number % reader.commands.len()];
            campaign.case(&format!("{} {number}", reader.name), || {
                replace();
                let ended = run(&command(&bench, args));
                unharmed(&bench, &ended, args).map_err(|wrong| {
                    replace();
                    format!("{wrong}\n  in {}", keep(reader, &bench, number))
                })
            });
        }
    }
    campaign.end();
}

/// The whole file, and the hostile ones of the corpus.
fn seeds(reader: &Reader, whole: &Workbench) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/corpus").join(reader.name);
    let mut hostile: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    hostile.sort();
    [whole.join(reader.file)].iter().chain(&hostile).map(|path| fs::read(path).unwrap()).collect()
}

fn unharmed(bench: &Workbench, ended: &Ended, args: &[&str]) -> Result<(), String> {
    ended.in_order()?;
    // What a model writes goes to a pipe as it is.
    let printed = if args[0] == "generate" { &[][..] } else { &ended.stdout };
    let wrong = if printed.contains(&0x1b) || ended.stderr.contains('\u{1b}') {
        "the file drives the terminal"
    } else if ended.code != 0 && ended.stderr.trim().is_empty() {
        "it fails without a word"
    } else if bench.join("owned").exists() || bench.path().parent().unwrap().join("x").exists() {
        "it writes where the file says"
    } else {
        return Ok(());
    };
    Err(ended.wrong(wrong))
}

/// Keeps what a case begins with, for the command to be repeated there.
fn keep(reader: &Reader, bench: &Workbench, number: usize) -> String {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attack-{}-{number}", reader.name));
    // That of an earlier run.
    let _ = fs::remove_dir_all(&kept);
    let copied = Command::new("cp").arg("-a").arg(bench.path()).arg(&kept).status().unwrap();
    assert!(copied.success());
    format!("{}, where {} is damaged", kept.display(), reader.file)
}

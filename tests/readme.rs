//! Every command that README, the recipes and the help texts show is run as it stands there, in a folder with made-up
//! inputs under the names that they use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::parquet_file;
use crate::workbench::Workbench;

/// Commands that are only checked to be understood, and why they are not run.
const NOT_RUN: &[(&str, &str)] = &[
    ("wattle prepare --dataset tiny-shakespeare", "it downloads: its request goes to a closed port"),
    ("wattle calibrate", "it needs a board and a wall meter: what it is given has neither"),
    ("wattle tune my.toml --power", "it needs a board whose limits it may set"),
    ("wattle tune my.toml --target-loss", "it needs a run that came down to that loss"),
    ("wattle tune my.toml --kernels", "it needs a GPU"),
    ("wattle sweep default --out", "eighteen runs of the embedded default: its plan is made"),
];

/// What is added to the end of a training command, so that it takes a second.
const SHORT: &str = " --device cpu --set train.max_steps=2 --set data.embedded_chars=20000 \
                     --set tokenizer.vocab_size=400 --set evaluate.batches=1 --set train.threads=1";
/// And to one of a preset that wants a gigabyte of text.
const SHORT_GPT2: &str = " --set train.batch_size=1 --set model.n_layers=1";

/// What is added to a search, so that it takes seconds.
const SHORT_TUNE: &str = " --device cpu --window 0.1 --rounds 2 --set train.batch_size=2 --set model.n_layers=1 \
                          --set model.d_model=32 --set model.context=32 --set tokenizer.vocab_size=400";

const COMMANDS: [&str; 18] = [
    "train",
    "init",
    "prepare",
    "generate",
    "show",
    "evaluate",
    "verify",
    "export",
    "meter",
    "runs",
    "report",
    "compare",
    "sweep",
    "estimate",
    "devices",
    "man",
    "calibrate",
    "tune",
];

#[test]
fn every_command_of_the_readme_and_of_the_help_works() {
    let bench = Workbench::new();
    furnish(&bench);
    let mut failed = Vec::new();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let of_readme = commands_of_readme(&readme);
    assert!(of_readme.len() > 25, "{of_readme:#?}");
    for line in &of_readme {
        failed.extend(fault(&bench, line));
    }
    let of_help: Vec<String> = COMMANDS.iter().flat_map(|name| commands_of_help(&bench, name)).collect();
    assert!(of_help.len() > 25, "{of_help:#?}");
    for line in of_help.iter().filter(|line| !of_readme.contains(line)) {
        failed.extend(fault(&bench, line));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_recipe_works_from_its_first_command_to_its_last() {
    let bench = Workbench::new();
    furnish(&bench);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md")).unwrap();
    let commands = commands_of_readme(&page);
    assert!(commands.len() > 12, "{commands:#?}");
    let failed: Vec<String> = commands.iter().filter_map(|line| fault(&bench, line)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_command_has_its_examples_looked_at() {
    let bench = Workbench::new();
    let help = String::from_utf8(bench.wattle(&["--help"]).output().unwrap().stdout).unwrap();
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help" && name.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    for name in listed.iter().filter(|name| help.contains(&format!("\n  {name} "))) {
        assert!(COMMANDS.contains(name), "{name} is not in COMMANDS");
    }
}

/// Command lines in code blocks, and those in running text that set something.
fn commands_of_readme(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut is_code = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let line = line.replace("cargo run --release -- ", "wattle ");
            commands.extend(line.starts_with("wattle ").then(|| without_comment(&line)));
        } else {
            let inline = line.split('`').skip(1).step_by(2);
            commands.extend(inline.filter(|code| code.starts_with("wattle train --")).map(str::to_owned));
        }
    }
    commands
}

fn commands_of_help(bench: &Workbench, command: &str) -> Vec<String> {
    let output = bench.wattle(&[command, "--help"]).output().unwrap();
    assert!(output.status.success(), "{command}");
    let help = String::from_utf8(output.stdout).unwrap();
    let lines = help.lines().filter_map(|line| line.strip_prefix("  ").filter(|l| l.starts_with("wattle ")));
    lines.map(without_comment).collect()
}

fn without_comment(line: &str) -> String {
    line.split("  #").next().unwrap_or(line).trim_end().to_owned()
}

/// What went wrong with a command line, if anything did.
fn fault(bench: &Workbench, line: &str) -> Option<String> {
    let is_only_parsed = NOT_RUN.iter().any(|(start, _)| line.starts_with(start));
    let mut run = line.to_owned();
    if line.contains("wattle train") || line.contains("wattle -q train") {
        run.push_str(SHORT);
        if line.contains("gpt2-124m") {
            run.push_str(SHORT_GPT2);
        }
    }
    if line.starts_with("wattle tune") {
        run.push_str(SHORT_TUNE);
    }
    if line.starts_with("wattle sweep") && !line.contains("--dry-run") {
        run.push_str(" --dry-run");
    }
    provide_runs(bench, line);
    let out = Folder::put_aside(bench, line);
    let mut command = Command::new("sh");
    command.args(["-c", &run]).current_dir(bench.path()).env("XDG_CACHE_HOME", bench.join("cache"));
    command.env("XDG_DATA_HOME", bench.join("data"));
    let program = Path::new(env!("CARGO_BIN_EXE_wattle")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{}:{path}", bench.join("bin").display(), program.display()));
    for name in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    // Sent nowhere: requests go to a closed port.
    command.env("ELECTRICITY_MAPS_API_KEY", "none");
    for name in ["RUST_LOG", "NVML_LIBRARY", "CUDA_VISIBLE_DEVICES"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    out.put_back(bench);
    let code = output.status.code();
    let is_fine = code == Some(0) || is_only_parsed && code == Some(1);
    let said = String::from_utf8_lossy(&output.stderr);
    (!is_fine || said.contains("panicked")).then(|| format!("{run}\n{code:?}\n{said}"))
}

/// A folder or file that a command is to make and that another made before it.
struct Folder(Option<String>);

impl Folder {
    fn put_aside(bench: &Workbench, line: &str) -> Self {
        let makes = ["train", "prepare", "tune", "init"]
            .iter()
            .any(|name| line.starts_with(&format!("wattle {name}")));
        let of_init = line.strip_prefix("wattle init ").and_then(|rest| rest.split(' ').next());
        let default = line.starts_with("wattle tune").then_some("tuned.toml").or(of_init);
        let name = line.split("--out ").nth(1).and_then(|rest| rest.split(' ').next()).or(default);
        let there = name.filter(|name| makes && !line.contains("--resume") && bench.join(name).exists());
        if let Some(name) = there {
            fs::rename(bench.join(name), bench.join("aside")).unwrap();
        }
        Self(there.map(str::to_owned))
    }

    fn put_back(self, bench: &Workbench) {
        if let Some(name) = self.0 {
            // Whatever it was.
            let _ = fs::remove_dir_all(bench.join(&name)).or_else(|_| fs::remove_file(bench.join(&name)));
            fs::rename(bench.join("aside"), bench.join(&name)).unwrap();
        }
    }
}

/// The runs of the embedded default that a line names by their time.
fn provide_runs(bench: &Workbench, line: &str) {
    let names = line.split([' ', '\'']).filter_map(|word| word.strip_prefix("runs/default-"));
    for name in names.filter_map(|rest| rest.split('/').next()) {
        let dir = bench.join("runs").join(format!("default-{name}"));
        if !dir.exists() {
            assert!(
                Command::new("cp")
                    .arg("-a")
                    .arg(bench.join("runs/small"))
                    .arg(dir)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

/// Inputs under the names that the commands use.
fn furnish(bench: &Workbench) {
    let text = |seed: u32| {
        let words =
            ["wattle", "tree", "blossom", "river", "stone", "Pinegate", "umbrella", "calf", "map", "oak"];
        let word =
            |i: u32| words[(i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) as usize % words.len()];
        (0..3000).map(|i| format!("{} {} {i}. ", word(i), word(i + 7))).collect::<String>()
    };
    for (seed, name) in ["a", "b", "mine", "corpus", "input", "other"].into_iter().enumerate() {
        fs::write(bench.join(&format!("{name}.txt")), text(seed as u32)).unwrap();
    }
    let documents: String =
        (0..200).map(|i| format!("{{\"body\": \"the map of oak {i} in Pinegate\"}}\n")).collect();
    fs::write(bench.join("docs.jsonl"), documents).unwrap();
    fs::create_dir(bench.join("fineweb")).unwrap();
    let rows = |i: u32| (0..60).map(move |j| text(i + j)[..200].to_owned());
    (0..2).for_each(|i| parquet_file::write(&bench.join(&format!("fineweb/00{i}.parquet")), rows(100 * i)));
    let mix = "[[data.mixture]]\nname = \"a\"\npath = \"a.txt\"\nweight = 2\n\n[[data.mixture]]\nname = \"b\"\n\
               path = \"b.txt\"\nweight = 1\n";
    fs::write(bench.join("mix.toml"), mix).unwrap();
    let chat: String = (0..60)
        .map(|i| format!("{{\"prompt\": \"who is {i}?\", \"completion\": \"the oak of Pinegate\"}}\n"))
        .collect();
    fs::write(bench.join("chat.jsonl"), chat).unwrap();
    let choice = |i: u32| {
        format!(
            "{{\"kind\":\"choice\",\"prompt\":\"oak {i}\",\"choices\":[\" map\",\" calf\"],\"answer\":{}}}\n",
            i % 2
        )
    };
    fs::write(bench.join("pets.jsonl"), (0..4).map(choice).collect::<String>()).unwrap();
    let cloze = "{\"kind\":\"cloze\",\"prompt\":\"the oak of\",\"answer\":\" Pinegate\"}\n";
    fs::write(bench.join("last-word.jsonl"), cloze.repeat(2)).unwrap();
    fs::write(bench.join("my.toml"), "[run]\nname = \"my\"\n[data]\ninput = [\"mine.txt\"]\n").unwrap();
    let sweep = "seeds = [1]\n[set]\ndata.input = [\"mine.txt\"]\n[[strategy]]\nname = \"base\"\n";
    fs::write(bench.join("mine.toml"), sweep).unwrap();
    fs::write(bench.join("2026-hourly.csv"), hourly()).unwrap();
    fs::write(bench.join("train.py"), "").unwrap();
    fs::create_dir(bench.join("bin")).unwrap();
    for (name, script) in [("python", "exit 0"), ("torchrun", "exit 0"), ("jq", "cat > /dev/null")] {
        let path = bench.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(bench.join("steps.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(bench.join("steps.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, seed) in [("small", "1"), ("large", "2")] {
        let seed = format!("run.seed={seed}");
        let out = format!("runs/{name}");
        let set = [
            "--set",
            "tokenizer.kind=bpe",
            "--set",
            "tokenizer.vocab_size=300",
            "--set",
            "train.max_steps=6",
            "--set",
            "evaluate.tasks=[\"pets.jsonl\"]",
        ];
        let output = bench.train(&[&["--out", &out, "--set", &seed], &set[..]].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // Any Hugging Face directory will do for GPT-2's, and its tokenizer for any other.
    let latest = fs::canonicalize(bench.join("runs/small/checkpoints/latest")).unwrap();
    assert!(Command::new("cp").arg("-a").arg(latest).arg(bench.join("gpt2")).status().unwrap().success());
    fs::copy(bench.join("gpt2/tokenizer.json"), bench.join("tok.json")).unwrap();
}

/// Carbon intensities of the hours around now.
fn hourly() -> String {
    let row = |hours: i32| {
        let date = ["-u", "-d", &format!("{hours} hours"), "+%Y-%m-%dT%H:00:00Z"];
        let time = Command::new("date").args(date).output().unwrap().stdout;
        format!("{},300\n", String::from_utf8(time).unwrap().trim())
    };
    let rows: String = (-2..=2).map(row).collect();
    format!("timestamp,g_per_kwh\n{rows}")
}

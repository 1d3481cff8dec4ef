//! System calls that fail: what is complete stays complete, and the next process goes on to the same result.

use std::fs;
use std::path::Path;
use std::process::Command;

use wattle_random::{Purpose, Stream};

use super::campaign::{Campaign, Ended, run};
use super::injector::{Fault, Injector, Seen, When};
use crate::workbench::{Workbench, expect};

/// A command, what it starts from, and what it leaves.
struct Deed {
    name: &'static str,
    /// Makes what it starts from.
    before: fn(&Workbench),
    command: fn(&Workbench) -> Command,
    /// What has to be the same in the end, however often it was disturbed.
    result: fn(&Workbench) -> Vec<u8>,
}

const DEEDS: [Deed; 6] = [
    Deed { name: "train", before: |_| {}, command: |bench| train(bench, 12), result: trained },
    Deed {
        name: "resume",
        before: |bench| drop(expect(0, train(bench, 6))),
        command: |bench| train(bench, 12),
        result: trained,
    },
    Deed {
        name: "prepare",
        before: |_| {},
        command: |bench| bench.wattle(&["prepare", "text.txt", "--tokenizer", "bpe:300", "--out", "data"]),
        result: |bench| content(bench, "data"),
    },
    Deed {
        name: "export",
        before: |bench| drop(expect(0, train(bench, 2))),
        command: |bench| bench.wattle(&["export", "run", "--type", "f16", "--out", "model.gguf"]),
        result: |bench| fs::read(bench.join("model.gguf")).unwrap(),
    },
    Deed {
        name: "report",
        before: |bench| drop(expect(0, train(bench, 2))),
        command: |bench| bench.wattle(&["report", "run", "--html", "page.html"]),
        result: |bench| fs::read(bench.join("page.html")).unwrap(),
    },
    Deed {
        name: "evaluate",
        before: |bench| drop(expect(0, train(bench, 2))),
        command: |bench| bench.wattle(&["evaluate", "run", "--text", "text.txt", "--device", "cpu"]),
        result: |_| Vec::new(),
    },
];

/// Calls, and the errors that a disk, a network file system or a process at its limits answers them with.
const ERRORS: [(&str, &[&str]); 13] = [
    ("open", &["EIO", "EACCES", "EMFILE"]),
    ("read", &["EIO"]),
    ("write", &["EIO", "ENOSPC"]),
    ("sync", &["EIO", "ENOSPC"]),
    ("truncate", &["EIO"]),
    ("close", &["EIO"]),
    ("mmap", &["ENOMEM"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("unlink", &["EIO"]),
    ("mkdir", &["ENOSPC"]),
    ("symlink", &["ENOSPC"]),
    ("chmod", &["EROFS"]),
    ("stat", &["EIO"]),
];

/// Calls whose failure is told even where the command can do without them.
const TOLD: [&str; 6] = ["write", "sync", "truncate", "rename", "mkdir", "symlink"];

/// The note that tokens are whole: without it they are hashed at the next start again, and nobody needs to know.
const UNTOLD: &str = "verified.json";

/// What a kernel may do at any time, and a program has to take for granted.
const HARMLESS: [(&str, &str); 7] = [
    ("read", "short"),
    ("write", "short"),
    ("read", "EINTR"),
    ("write", "EINTR"),
    ("open", "EINTR"),
    ("sync", "EINTR"),
    ("truncate", "EINTR"),
];

fn train(bench: &Workbench, max_steps: u64) -> Command {
    let max_steps = format!("train.max_steps={max_steps}");
    let constant = ["--set", "schedule.kind=constant", "--set", &max_steps];
    bench.train(&[&["--out", "run", "--resume=auto"], &constant[..]].concat())
}

/// Every loss to the bit, and the checkpoint that it ended with.
fn trained(bench: &Workbench) -> Vec<u8> {
    let mut result = format!("{:?}", bench.losses("run")).into_bytes();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        result.extend(fs::read(bench.join("run/checkpoints/latest").join(file)).unwrap());
    }
    result
}

fn content(bench: &Workbench, dir: &str) -> Vec<u8> {
    let root = bench.join(dir);
    let files = bench.content(dir).into_iter();
    files
        .flat_map(|(path, bytes)| {
            [path.strip_prefix(&root).unwrap().as_os_str().as_encoded_bytes(), &bytes].concat()
        })
        .collect()
}

/// What a deed looks like when nothing disturbs it.
struct Undisturbed {
    /// Where it is done: runs remember absolute paths.
    bench: Workbench,
    before: Workbench,
    result: Vec<u8>,
    calls: Vec<Seen>,
}

fn undisturbed(deed: &Deed, injector: &Injector) -> Undisturbed {
    let (bench, before) = (Workbench::in_memory(), Workbench::in_memory());
    (deed.before)(&bench);
    before.fill_from(&bench);
    let mut command = (deed.command)(&bench);
    injector.inject(&mut command, bench.path(), None);
    expect(0, command);
    Undisturbed { before, result: (deed.result)(&bench), calls: injector.seen(), bench }
}

impl Undisturbed {
    /// The folder as it was before the deed.
    fn again(&self) -> &Workbench {
        self.bench.fill_from(&self.before);
        &self.bench
    }
}

#[test]
fn short_and_interrupted_calls_change_nothing() {
    let injector = Injector::new();
    let mut campaign = Campaign::new("interrupted calls");
    for deed in &DEEDS {
        let whole = undisturbed(deed, &injector);
        for (call, effect) in HARMLESS {
            // Every second one; all of them would never end where calls are made again.
            for n in if effect == "short" { 1..=3 } else { 2..=4 } {
                let fault = Fault { call, effect, when: When::Every(n) };
                campaign.case(&format!("{} with {fault}", deed.name), || {
                    let bench = whole.again();
                    let mut command = (deed.command)(bench);
                    injector.inject(&mut command, bench.path(), Some(fault));
                    let ended = run(&command);
                    ended.is(0)?;
                    same(deed, bench, &whole, &ended)
                });
            }
        }
    }
    campaign.end();
}

#[test]
fn failed_calls_lose_nothing_that_was_complete() {
    let injector = Injector::new();
    let mut campaign = Campaign::new("failed calls");
    let limit = fuzz::size("WATTLE_FAULT_CALLS", 1);
    for (deed, step) in DEEDS.iter().zip(0..) {
        let whole = undisturbed(deed, &injector);
        for ((call, effects), kind) in ERRORS.iter().zip(0..) {
            let calls = whole.calls.iter().filter(|seen| seen.call == *call).count() as u64;
            let random = Stream::new(kind, Purpose::Order, step);
            for (effect, which) in effects.iter().zip(0..) {
                for trial in 0..limit.min(calls) {
                    // All of them in order where all are tried.
                    let n = match calls <= limit {
                        true => trial + 1,
                        false => 1 + u64::from(random.word(which << 32 | trial)) % calls,
                    };
                    let when = if *effect == "ENOSPC" { When::From(n) } else { When::Once(n) };
                    let fault = Fault { call, effect, when };
                    campaign.case(&format!("{} with {fault}", deed.name), || {
                        disturb(deed, &whole, &injector, fault)
                    });
                }
            }
        }
    }
    campaign.end();
}

/// Disturbs a deed, looks at what stands, and does it again undisturbed.
fn disturb(deed: &Deed, whole: &Undisturbed, injector: &Injector, fault: Fault) -> Result<(), String> {
    let bench = whole.again();
    let mut command = (deed.command)(bench);
    injector.inject(&mut command, bench.path(), Some(fault));
    let ended = run(&command);
    ended.in_order()?;
    let seen = injector.seen();
    let is_told = |seen: &&Seen| seen.failed && !seen.path.to_string_lossy().contains(UNTOLD);
    if let Some(failed) = seen.iter().find(is_told)
        && (ended.code != 0 || TOLD.contains(&fault.call))
    {
        names(&ended, &failed.path)?;
    }
    checkpoints_load(bench)?;
    let again = run(&(deed.command)(bench));
    // What `prepare` has made whole it does not make again.
    if !(again.code == 1 && again.stderr.contains("exists already")) {
        again.is(0)?;
    }
    same(deed, bench, whole, &ended)
}

/// Whether an error names the file; of one with a temporary name, the final one; of one in a checkpoint, that.
fn names(ended: &Ended, path: &Path) -> Result<(), String> {
    let parts = [path.file_name(), path.parent().and_then(Path::file_name)].into_iter().flatten();
    let mut parts = parts.map(|part| part.to_string_lossy().into_owned());
    let is_named = parts.any(|part| {
        let temporary =
            [".partial-", ".tmp"].iter().filter_map(|mark| part.find(mark)).filter(|at| *at > 0).min();
        ended.stderr.contains(&part[..temporary.unwrap_or(part.len())])
    });
    if is_named { Ok(()) } else { Err(ended.wrong(&format!("it does not name {}", path.display()))) }
}

/// Whether every checkpoint that has a final name can be read.
fn checkpoints_load(bench: &Workbench) -> Result<(), String> {
    if !bench.join("run/checkpoints").exists() {
        return Ok(());
    }
    for name in bench
        .list("run/checkpoints")
        .iter()
        .filter(|name| name.starts_with("step-") && !name.contains(".tmp"))
    {
        let checkpoint = format!("run/checkpoints/{name}");
        run(&bench.wattle(&[
            "generate",
            &checkpoint,
            "--max-tokens",
            "1",
            "--prompt",
            "1",
            "--device",
            "cpu",
        ]))
        .is(0)?;
    }
    Ok(())
}

fn same(deed: &Deed, bench: &Workbench, whole: &Undisturbed, ended: &Ended) -> Result<(), String> {
    if (deed.result)(bench) == whole.result { Ok(()) } else { Err(ended.wrong("the result is another one")) }
}

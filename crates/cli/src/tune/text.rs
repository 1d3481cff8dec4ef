//! What a person sees of a search, and the configuration that it leaves.

use wattle_report::words::quantity::{count, duration, joules, joules_per_ktoken, percent, si, watts};
use wattle_report::words::table::{self, Table};
use wattle_runlog::{Joules, Seconds};
use wattle_session::Config;
use wattle_tune::race::Gap;
use wattle_tune::{Axis, Contender, Dropped, Finish, Goal, Race, Tuned, Window};

/// A race that is over, as lines.
pub fn race(axis: &Axis, race: &Race, goal: Goal) -> Vec<String> {
    let headings = [axis.name(), "tokens/s", "J/ktoken", "power", "windows", "above the best"];
    let mut table = Table::new(headings, &[0]);
    let is_told = |contender: &Contender| contender.dropped != Some(Dropped::NotNeeded);
    for (idx, contender) in race.contenders.iter().enumerate().filter(|(_, contender)| is_told(contender)) {
        table.row(row(axis, race, idx, contender, goal));
    }
    let mut lines = table.lines();
    lines.extend(remark(race).map(|remark| format!("  {remark}")));
    let impossible = race.contenders.iter().filter_map(|contender| match &contender.dropped {
        Some(Dropped::Impossible(why)) => Some((axis.label(&contender.way), why)),
        _ => None,
    });
    lines.extend(impossible.flat_map(|(label, why)| table::hang("  ", &format!("{label}: {why}"))));
    lines
}

fn row(axis: &Axis, race: &Race, idx: usize, contender: &Contender, goal: Goal) -> [String; 6] {
    let total = contender.total();
    let of = |text: &dyn Fn(&Window) -> String| total.as_ref().map_or_else(|| "–".to_owned(), text);
    let is_best = race.best == Some(idx);
    let gap = race.winner().and_then(|best| contender.above(best, goal));
    [
        axis.label(&contender.way),
        of(&|window| speed(window)),
        of(&|window| joules_per_ktoken(window.joules_per_token())),
        of(&|window| watts(window.power())),
        contender.windows.len().to_string(),
        match (&contender.dropped, gap) {
            _ if is_best => "taken".to_owned(),
            (Some(Dropped::Impossible(_)), _) => "cannot be taken".to_owned(),
            (Some(Dropped::OverLimit), _) => "over --joules".to_owned(),
            (Some(Dropped::Behind | Dropped::NotNeeded) | None, Some(gap)) => gap_words(gap),
            // Of one window there is no error.
            (Some(Dropped::Behind | Dropped::NotNeeded) | None, None) => "far behind".to_owned(),
        },
    ]
}

/// `+4.1 ± 0.6 %`; an error of more than the whole says that nothing is known.
fn gap_words(Gap { share, half_width }: Gap) -> String {
    match half_width {
        half_width if half_width < 1.0 => format!("{:+.1} ± {:.1} %", share * 100.0, half_width * 100.0),
        _ => "unsure".to_owned(),
    }
}

fn speed(window: &Window) -> String {
    let per_second = 1.0 / window.seconds_per_token();
    si(per_second, "").trim_end().to_owned()
}

/// What the table does not say.
fn remark(race: &Race) -> Option<&'static str> {
    match race.finish {
        Finish::Ahead | Finish::Nobody => None,
        Finish::Level => Some("level within 1 %: of those, the better otherwise, else the first"),
        Finish::Close => Some("too close to tell after all windows; the one with the best mean is taken"),
        Finish::OverLimit => Some("none keeps --joules; the most frugal is taken"),
    }
}

/// What was found, and what it comes to.
pub fn summary(tuned: &Tuned, goal: Goal, tokens: u64, target_loss: Option<f64>) -> String {
    let mut lines = vec![format!("Best: {}", tuned.best)];
    if let Some(window) = &tuned.window {
        let energy = Joules(window.joules_per_token() * tokens as f64);
        let time = Seconds(window.seconds_per_token() * tokens as f64);
        let what = match target_loss {
            Some(loss) => format!("{} tokens, to a loss of {loss}", count(tokens)),
            None => format!("All {} tokens", count(tokens)),
        };
        lines.push(format!("{what}: about {} and {}", joules(energy), duration(time)));
        if window.measured_fraction < 0.5 {
            lines.push(
                "Energy is estimated here from processor time: --for time is then the surer goal".to_owned(),
            );
        }
    }
    match &tuned.saving {
        None => lines.push("That is the configuration as it is: nothing here is better".to_owned()),
        Some(saving) => {
            let (start, best) = (&saving.start, &saving.best);
            let change = |a: f64, b: f64| format!("{:+.1} %", (b / a - 1.0) * 100.0);
            let sought = match goal {
                Goal::Energy => "joules a token",
                Goal::Time | Goal::TimeWithin { .. } => "time a token",
            };
            lines.push(format!(
                "Against the configuration as it is, in turns: {sought} {}",
                gap_words(saving.of_best)
            ));
            if saving.of_best.share + saving.of_best.half_width >= 0.0 {
                lines.push(
                    "That is within the error: it may be no better. Longer --window tells more".to_owned(),
                );
            }
            lines.push(format!(
                "energy {}, time {}, power {} → {}",
                change(start.joules_per_token(), best.joules_per_token()),
                change(start.seconds_per_token(), best.seconds_per_token()),
                watts(start.power()),
                watts(best.power())
            ));
        }
    }
    if tuned.best.settings.contains_key("precision.dtype") {
        lines.push(
            "Another precision learns a little differently: hold it against the first by wattle sweep"
                .to_owned(),
        );
    }
    lines.extend(board_commands(tuned));
    lines.iter().flat_map(|line| table::hang("", line)).map(|line| line + "\n").collect()
}

/// What sets the board: no run does so by itself.
fn board_commands(tuned: &Tuned) -> Vec<String> {
    let limit = tuned.best.power_limit_mw.map(|mw| format!("nvidia-smi -pl {}", mw / 1000));
    let clock = tuned.best.clock_mhz.map(|mhz| format!("nvidia-smi -lgc 0,{mhz}"));
    let commands: Vec<String> = limit.into_iter().chain(clock).collect();
    if commands.is_empty() {
        commands
    } else {
        vec![format!("Set the board before the run: {}", commands.join("; "))]
    }
}

/// The configuration that was found, with what it rests on.
pub fn toml(tuned: &Tuned, config: &Config) -> String {
    let mut comments = vec![format!("# Found by wattle tune: {}.", tuned.best)];
    if let Some(saving) = &tuned.saving {
        comments.push(format!(
            "# Against the configuration as it was: {} of the energy and {} of the time.",
            percent(saving.best.joules_per_token() / saving.start.joules_per_token()),
            percent(saving.best.seconds_per_token() / saving.start.seconds_per_token())
        ));
    }
    comments.extend(board_commands(tuned).into_iter().map(|command| format!("# {command}")));
    format!("{}\n\n{}", comments.join("\n"), config.to_toml())
}

//! A run as one page: a single file that needs nothing else, on a screen in the dark, on a telephone, on paper.
//!
//! Plots are SVG of our own. The crates that draw charts fix size, fonts and colours when they draw; here a
//! picture stretches with the page while its labels keep their size, and takes its colours from the style sheet.
//! Everything that comes from a file is escaped by the template engine, but for paths of numbers.

pub(crate) mod against;
pub mod axis;
pub mod decimate;
pub mod plot;

mod course;
pub(crate) mod curves;
mod details;
mod overview;
mod power;
mod tasks;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::join::energy_curve::EnergyCurve;
use crate::join::learning::Learning;
use crate::join::report::Report;
use crate::join::run::Run;
use crate::join::timeline::Timeline;

static STYLE: &str = include_str!("style.css");

/// Everything that a page of one run is drawn from.
pub(crate) struct Source<'a> {
    pub(crate) report: &'a Report,
    pub(crate) run: &'a Run,
    pub(crate) timeline: Timeline,
    pub(crate) curve: EnergyCurve<'a>,
    pub(crate) learning: Learning,
}

impl<'a> Source<'a> {
    fn of(report: &'a Report, run: &'a Run) -> Self {
        let timeline = Timeline::of(run);
        let curve = EnergyCurve::of(run, &timeline);
        let learning = Learning::of(run, &timeline, &curve);
        Self { report, run, timeline, curve, learning }
    }
}

/// The page of a run.
pub fn page(report: &Report, run: &Run) -> String {
    let source = Source::of(report, run);
    let body = html! {
        (overview::header(report))
        (overview::warnings(report))
        (overview::tiles(report))
        (overview::notes(report))
        (curves::learning(&source))
        (tasks::scores(&source))
        (tasks::samples(&source))
        (power::power(&source))
        (curves::cumulative(&source))
        (details::phases(report))
        (details::sensors(report))
        (details::epochs(report))
        (details::repriced(report))
        (details::provenance(report))
        (details::configuration(report))
    };
    document(&format!("{} · wattle", report.name), &body)
}

/// A whole document around `body`.
pub(crate) fn document(title: &str, body: &Markup) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(format!("wattle {version}"));
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (body)
                footer {
                    "Half-widths (±) are 95 % bounds on the random error, ± ? where it is unknown; the systematic error "
                    "is stated separately. Estimates count this process, measured sensors the whole device. Written "
                    "by wattle " (version) "."
                }
            }
        }
    };
    document.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;
    use wattle_runlog::beside::{EmbodiedRate, MachineIdle};
    use wattle_runlog::{GramsCo2e, Joules, Seconds, Watts};

    fn page_of(synthetic: &SyntheticRun) -> String {
        let dir = tempfile::tempdir().unwrap();
        let run = synthetic.write(dir.path());
        page(&Report::of(&run, None).unwrap(), &run)
    }

    fn faults(page: &str) -> Vec<String> {
        scraper::Html::parse_document(page).errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_well_formed_whatever_the_run() {
        let estimated = SyntheticRun { method: "estimated", stop: None, ..SyntheticRun::small() };
        for synthetic in [SyntheticRun::small(), SyntheticRun::resumed(), estimated] {
            assert_eq!(faults(&page_of(&synthetic)), Vec::<String>::new());
        }
        assert!(!faults("<!DOCTYPE html><p><b>x</p>").is_empty(), "the check finds faults");
    }

    #[test]
    fn the_floor_the_course_and_temperatures_are_drawn() {
        let page = page_of(&SyntheticRun { degrees: Some(41.0), ..SyntheticRun::small() });
        for part in ["entropy floor 1.750", "shade evaluate", "shade checkpoint", "highest 45 °C"] {
            assert!(page.contains(part), "{part}");
        }
        let without = page_of(&SyntheticRun { entropy: None, ..SyntheticRun::small() });
        assert!(!without.contains("entropy floor") && !without.contains("°C"));
    }

    #[test]
    fn a_single_temperature_is_a_sentence_and_no_plot() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun { degrees: Some(41.0), ..SyntheticRun::small() }.write(dir.path());
        run.power.temperatures[0].readings.truncate(1);
        let page = page(&Report::of(&run, None).unwrap(), &run);
        assert!(page.contains("NVIDIA H200: 41 °C (a single reading).") && !page.contains("temperature, °C"));
    }

    #[test]
    fn an_unmetered_board_is_the_first_thing_on_the_page() {
        let page = page_of(&SyntheticRun::unmetered());
        let told = page.find("cuda:0 trained this run and was not metered").unwrap();
        assert!(told < page.find("<dl").unwrap());
        assert!(page.contains("≥ 6.06 J"));
        assert!(!page.contains("id=\"by-joules\"") && page.contains("id=\"by-time\""));
    }

    #[test]
    fn the_energy_tile_shows_both_parts_of_the_error() {
        let page = page_of(&SyntheticRun::small());
        assert!(page.contains("± 2.00 J random") && page.contains("± 5 % systematic"));
        let estimated = page_of(&SyntheticRun { method: "estimated", ..SyntheticRun::small() });
        assert!(estimated.contains("random error unknown") && !estimated.contains("± 0"));
    }

    #[test]
    fn what_stands_beside_the_energy_is_on_the_page_too() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(dir.path());
        let mut report = Report::of(&run, None).unwrap();
        assert!(!page(&report, &run).contains("Embodied: "));
        let totals = report.totals.as_mut().unwrap();
        let rate = EmbodiedRate { machine_g: GramsCo2e(1.5e6), lifetime_h: 40_000.0 };
        totals.embodied = Some(rate.over(Seconds(7_200.0)));
        let (power_w, energy_j) = (Watts(180.0), Joules(1.296e6));
        totals.machine_idle = Some(MachineIdle { power_w, energy_j, emissions_g: GramsCo2e(144.0) });
        let page = page(&report, &run);
        for words in ["Embodied: 75.0 gCO2e of making the machine", "Idle: 1.30 MJ at a stated 180 W"] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn a_run_that_has_just_begun_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun::small().write(dir.path());
        for file in ["events.jsonl", "emissions.jsonl", "power.trace"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        let run = Run::open(dir.path()).unwrap();
        assert_eq!(faults(&page(&Report::of(&run, None).unwrap(), &run)), Vec::<String>::new());
    }

    #[test]
    fn it_asks_nobody_for_anything() {
        let page = page_of(&SyntheticRun::resumed());
        for reference in ["http:", "https:", "//", "url(", "@import", "<script", "<link", "<img", "src="] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn what_files_say_stays_text() {
        let page = page_of(&SyntheticRun::small());
        // The command sets the name to <b>&, and the intensity's source is a <table>.
        assert!(page.contains("&lt;b&gt;&amp;") && !page.contains("<b>&"));
        assert!(page.contains("a &lt;table&gt;"));
    }

    #[test]
    fn a_hundred_thousand_steps_stay_below_a_megabyte() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun { n_epochs: 5_000, ..SyntheticRun::small() }.write(dir.path());
        assert_eq!(
            run.events.iter().filter(|e| matches!(e.body, wattle_runlog::EventBody::Step(_))).count(),
            100_000
        );
        let page = page(&Report::of(&run, None).unwrap(), &run);
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
    }
}

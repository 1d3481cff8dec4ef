//! scratch
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.len() == 3 {
        let run = wattle_report::Run::open(args[1].as_ref()).unwrap();
        let report = wattle_report::Report::of(&run, None).unwrap();
        print!("{}", wattle_report::text::text(&report));
        std::fs::write(&args[2], wattle_report::page::page(&report, &run)).unwrap();
    } else {
        let runs: Vec<_> = args[2..].iter().map(|p| wattle_report::Run::open(p.as_ref()).unwrap()).collect();
        let reports: Vec<_> = runs.iter().map(|r| wattle_report::Report::of(r, None).unwrap()).collect();
        let c = wattle_report::compare::Comparison::of(&runs, &reports, None);
        print!("{}", wattle_report::compare::text(&c));
        std::fs::write(&args[1], wattle_report::compare::page(&c, &reports)).unwrap();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let run = wattle_report::Run::open(args[1].as_ref()).unwrap();
    let report = wattle_report::Report::of(&run, None).unwrap();
    print!("{}", wattle_report::text::text(&report));
    std::fs::write(&args[2], wattle_report::page::page(&report, &run)).unwrap();
}

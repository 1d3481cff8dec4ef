//! One definition of each setting of a configuration.
//!
//! A section of the configuration is declared once, with [`section!`]: its keys with their documentation, type,
//! default, unit and range, when a key has no effect, and whether it may change at a resume. From the declaration come
//! the struct and its `Default`, validation, the message for a value of the wrong type, what a stored configuration
//! lists, which paths are made absolute, what may differ at a resume, `--help` and the reference in
//! `docs/configuration.md`. An enum that a key takes is declared with [`choices!`].
//!
//! ```
//! use wattle_settings::{Section, Schema, SectionInfo};
//!
//! wattle_settings::choices! {
//!     /// A learning-rate schedule.
//!     pub enum Curve {
//!         /// The peak throughout.
//!         Constant = "constant",
//!         /// Half a cosine from the peak to the minimum.
//!         Cosine = "cosine",
//!     }
//! }
//!
//! wattle_settings::section! {
//!     /// How the learning rate changes.
//!     #[section(schedule)]
//!     pub struct ScheduleConfig {
//!         /// The curve after warmup.
//!         pub kind: Curve = Curve::Cosine;
//!         /// Share of the peak that is left at the end.
//!         pub floor: f64 = 0.1,
//!             expects(at_least(0.0).below(1.0)),
//!             idle(unless("schedule.kind", &["cosine"]));
//!     }
//! }
//!
//! let schedule: ScheduleConfig = toml::from_str("floor = 2.0").unwrap();
//! assert_eq!(schedule.faults(), ["schedule.floor = 2: expected at least 0 and below 1"]);
//! assert_eq!(ScheduleConfig::settings()[1].doc.summary(), "Share of the peak that is left at the end.");
//!
//! const SCHEMA: Schema = Schema(&[SectionInfo::of::<ScheduleConfig>()]);
//! let values = "schedule = { kind = \"constant\", floor = 0.2 }".parse().unwrap();
//! let idle = SCHEMA.idle(&values);
//! assert_eq!(
//!     idle[0].to_string(),
//!     "schedule.floor = 0.2: has no effect with schedule.kind = \"constant\"; leave it out or set schedule.kind = \
//!      \"cosine\""
//! );
//! ```

mod at_resume;
mod choice;
mod choices;
mod condition;
mod doc;
mod help;
mod kind;
mod mistake;
mod range;
mod reference;
pub mod rules;
mod schema;
mod section;
mod setting;
mod template;

pub use at_resume::AtResume;
pub use choice::Choice;
pub use choices::Choices;
pub use condition::{Condition, Test};
pub use doc::Doc;
pub use kind::{Kind, SettingType};
pub use range::Range;
pub use rules::Rules;
pub use schema::{Idle, Schema, idle_of};
pub use section::{Section, SectionInfo};
pub use setting::Setting;

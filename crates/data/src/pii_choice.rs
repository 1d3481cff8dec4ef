//! What is done with personal data.

wattle_settings::choices! {
    /// What is done with personal data.
    pub enum PiiChoice (default Keep) {
        /// Nothing.
        Keep = "keep",
        /// A placeholder takes its place: `<EMAIL>`, `<PHONE>`, `<CARD>`, `<IP>`.
        Replace = "replace",
        /// Documents that have some are left out.
        Drop = "drop",
    }
}

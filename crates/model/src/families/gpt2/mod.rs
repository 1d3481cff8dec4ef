pub(crate) mod network;

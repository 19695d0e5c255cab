//! The command line of finding nodes.

use clap::Args;

#[derive(Debug, Args)]
pub struct Find {
    /// The device that it computes language models on, as its owner names it: `processor`, `cuda`,
    /// `cuda:1`, `vulkan` or `vulkan:1`.
    #[arg(long)]
    pub device: Option<String>,
    /// The memory that it has for a run, such as `8 GiB`.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// A package, model or adapter that it has ready, in the newest release that is there: a name that
    /// is known here, a digest or a ticket. May be given several times.
    #[arg(long, value_name = "PACKAGE", visible_aliases = ["package", "model", "adapter"])]
    pub ready: Vec<String>,
    /// The most that it asks for 10^12 operations.
    #[arg(long, value_name = "CREDITS")]
    pub price_per_teraflop: Option<String>,
    /// The most that it asks for 10^9 bytes in and out.
    #[arg(long, value_name = "CREDITS")]
    pub price_per_gigabyte: Option<String>,
    /// The most that it asks for an hour of keeping something ready.
    #[arg(long, value_name = "CREDITS")]
    pub price_per_hour: Option<String>,
    /// How long to look at most; less where every way to find nodes has ended before.
    #[arg(long, value_name = "TIME", default_value = "5 s")]
    pub wait: String,
}

//! The command line of credits: the ledger, stakes, and receipts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Account {
    #[command(subcommand)]
    pub command: Option<AccountCommand>,
}

#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Put credits into this node's own ledger, to spend on jobs. Its owner makes them: they come out of
    /// its treasury, and count nowhere else.
    Add {
        /// How many, such as `2.5`.
        credits: String,
        /// Whose; by default this node's own. Those of another account are what it gave you for them
        /// elsewhere, so that it can pay when receipts are settled here.
        #[arg(long)]
        account: Option<String>,
    },
    /// Put credits at stake in this node's own ledger, which are lost if a fraud is proven. Those of
    /// another account come out of the treasury, as what it was given for them elsewhere.
    Stake {
        /// How many, such as `2.5`.
        credits: String,
        /// Whose; by default this node's own.
        #[arg(long)]
        account: Option<String>,
    },
    /// Take credits out of what is at stake in this node's own ledger, for their account to spend. What
    /// an account has at stake stays there for a week after the deadline of the last job that it got
    /// work of: for so long its results can be disputed.
    Unstake {
        /// How many, such as `2.5`.
        credits: String,
        /// Whose; by default this node's own.
        #[arg(long)]
        account: Option<String>,
    },
    /// Ask those for whom this node worked for receipts that it has not got: it may have been away
    /// when they were signed. A node does so by itself every hour.
    Collect,
    /// Judge an accusation, such as those that a job leaves behind. Whoever is in the wrong loses of
    /// what it has at stake here: the accused, or whoever accused it.
    Judge {
        /// The file with the accusation.
        #[arg(value_hint = ValueHint::FilePath)]
        accusation: PathBuf,
    },
    /// Write every receipt that this node has with both signatures to a file: of its work for others,
    /// and of others' work for it. Whoever has the file can check it without this node.
    Receipts {
        /// Where to.
        #[arg(short, long, alias = "out", value_hint = ValueHint::FilePath)]
        output: PathBuf,
    },
    /// Add up what each account earned and spent by the receipts in files, which may be anybody's. Both
    /// signatures of each are checked, and no ledger is looked at.
    Recompute {
        /// Files that `skep account receipts` wrote. A receipt in several of them counts once.
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Settle the receipts in files in this node's own ledger: each account pays or gets what is left when
    /// all of them are added up. Those that were settled here before are left out.
    Settle {
        /// Files that `skep account receipts` wrote. A receipt in several of them counts once.
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
}

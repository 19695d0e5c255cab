//! What a person sees: results in words, and progress bars that vanish where nobody looks.

mod family;
mod found;
mod hardware;
mod jobs;
mod receipts;
mod shards;

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::play::{Judged, Worth};
use crate::requests::{
    FineTuned, Inspected, Installed, Listed, PackageLine, Progress, Published, Ran, Removed,
    Response, Status, TrainingStep, Unit,
};

/// Shows the progress of one command on standard error, if that is a terminal.
#[derive(Default)]
pub struct Bars {
    current: Option<(String, ProgressBar)>,
    shards: shards::ShardBars,
}

impl Bars {
    /// Shows a step; a new stage gets a new bar.
    pub fn show(&mut self, step: &Progress) {
        if let Some(shard) = &step.shard {
            self.finish_one();
            self.shards.show(step, shard);
            return;
        }
        if !std::io::stderr().is_terminal() {
            return;
        }
        if self
            .current
            .as_ref()
            .is_none_or(|(stage, _)| *stage != step.stage)
        {
            self.finish_one();
            let target = ProgressDrawTarget::stderr_with_hz(10);
            self.current = Some((step.stage.clone(), bar(step, target)));
        }
        if let Some((_, bar)) = &self.current {
            advance(bar, step);
        }
    }

    /// Takes the last bars away.
    pub fn finish(&mut self) {
        self.finish_one();
        self.shards.finish();
    }

    fn finish_one(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(step: &Progress, target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(step.total, target);
    let template = match (step.unit, step.total) {
        (Unit::Bytes, Some(_)) => {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left"
        }
        (Unit::Bytes, None) => "{msg} {spinner} {bytes} {bytes_per_sec}",
        (Unit::Records | Unit::Shards, Some(_)) => {
            "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta} left"
        }
        (Unit::Steps, Some(_)) => "{msg} [{bar:30}] {human_pos}/{human_len} steps {eta} left",
        (Unit::Steps, None) => "{msg} {spinner} {human_pos} steps",
        (Unit::Records, None) => "{msg} {spinner} {human_pos} records {per_sec}",
        (Unit::Shards, None) => "{msg} {spinner}",
        (Unit::Nodes, _) => "{msg} {spinner} {human_pos} found so far",
    };
    // The templates are constants above, so that a wrong one would show in every run.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(step.stage.clone());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn advance(bar: &ProgressBar, step: &Progress) {
    if let Some(total) = step.total {
        bar.set_length(total);
    }
    bar.set_position(step.done);
    if let Some(training) = &step.training {
        bar.set_message(told(training));
    }
}

/// What a step of a training came to, in a few words.
fn told(step: &TrainingStep) -> String {
    let loss = step.loss.map(|loss| format!("loss {loss:.3}"));
    let rate = step.tokens_per_s.map(|rate| format!("{rate:.0} tokens/s"));
    let said: Vec<String> = loss.into_iter().chain(rate).collect();
    match said.is_empty() {
        true => "training".to_owned(),
        false => said.join(", "),
    }
}

/// Prints a result for a person.
pub fn print(response: &Response) {
    match response {
        Response::Published(published) => print_published(published),
        Response::Installed(installed) => print_installed(installed),
        Response::FineTuned(finetuned) => print_finetuned(finetuned),
        Response::Ran(ran) => print_ran(ran),
        Response::Inspected(inspected) => print_inspected(inspected),
        Response::Listed(listed) => print_listed(listed),
        Response::Removed(removed) => print_removed(removed),
        Response::Status(status) => print_status(status),
        Response::Job(answer) => jobs::print_job(&answer.job),
        Response::Jobs(list) => jobs::print_jobs(&list.jobs),
        Response::Account(answer) => jobs::print_account(answer),
        Response::Judged(judged) => jobs::print_judged(judged),
        Response::Checked(checked) => jobs::print_checked(checked),
        Response::WroteReceipts(answer) => receipts::print_written(&answer.wrote),
        Response::Recomputed(recomputed) => receipts::print_recomputed(recomputed),
        Response::Settled(answer) => receipts::print_settled(&answer.settled),
        Response::Found(found) => found::print(found),
    }
}

fn print_published(published: &Published) {
    let Published {
        published: line,
        releases,
        ticket,
        model,
        adapter,
    } = published;
    tell!("published {} (release {releases})", line.reference);
    tell!("  digest  {}", line.digest);
    tell!("  size    {}", bytes(line.bytes));
    if let Some(model) = model {
        tell!(
            "  model   {}, {}, {} tokens of context, {} dimensions",
            model.task,
            model.architecture,
            model.context,
            model.dimensions
        );
    }
    if let Some(adapter) = adapter {
        tell!(
            "  adapter of {} ({}), rank {}, {} in use",
            adapter.base,
            short(&adapter.base_digest),
            adapter.rank,
            bytes(adapter.bytes)
        );
    }
    tell!("  ticket  {ticket}");
    tell!("Others install it with: skep install <ticket>, while `skep node` runs here.");
}

fn print_finetuned(finetuned: &FineTuned) {
    tell!(
        "trained {} (release {})",
        finetuned.finetuned.reference,
        finetuned.releases
    );
    tell!("  digest    {}", finetuned.finetuned.digest);
    if let Some(adapter) = &finetuned.adapter {
        tell!(
            "  adapter   of {} ({}), rank {}, {} in use",
            adapter.base,
            short(&adapter.base_digest),
            adapter.rank,
            bytes(adapter.bytes)
        );
    }
    let metric = |name: &str| finetuned.metrics.get(name);
    tell!(
        "  steps     {} in {:.1} s",
        finetuned.steps,
        finetuned.seconds
    );
    if let (Some(before), Some(after)) = (metric("held-out-loss-before"), metric("held-out-loss")) {
        tell!("  held out  loss {before:.4} before, {after:.4} after");
    }
    if let Some(together) = &finetuned.together {
        tell!(
            "  together  by {}, {} turns, {} of own contributions, {} sent in all",
            together.method,
            together.turns,
            bytes(together.contributed_bytes),
            bytes(together.sent_bytes)
        );
        for node in &together.nodes {
            let (name, count) = (short(&node.node), node.left_out.len());
            tell!(
                "    {name}  counted {} times, left out {count}, audited {}, came back {}",
                node.accepted,
                node.audited,
                node.returned
            );
            if node.joined > 0 {
                tell!("      joined in round {}", node.joined);
            }
            if let Some(last) = node.left_out.last() {
                tell!("      {}", last.why);
            }
            if let Some(gone) = &node.gone {
                tell!("      took no more part: {gone}");
            }
        }
    }
    tell!("  losses    {}", finetuned.losses.display());
    tell!("  plot      {}", finetuned.plot.display());
    tell!("  card      {}", finetuned.card.display());
    tell!("  ticket    {}", finetuned.ticket);
}

fn print_installed(installed: &Installed) {
    tell!("installed {}", installed.installed.reference);
    tell!("  digest    {}", installed.installed.digest);
    tell!(
        "  fetched   {} from {} node(s) in {:.2} s; {} were here already",
        bytes(installed.bytes_fetched),
        installed.providers.len(),
        installed.seconds,
        bytes(installed.bytes_present),
    );
    tell!(
        "  verified  {} files, {} chunks",
        installed.files,
        installed.chunks_verified
    );
}

fn print_ran(ran: &Ran) {
    let number = |name: &str| ran.report.get(name).and_then(serde_json::Value::as_f64);
    tell_error!("ran {}", ran.digest);
    if let Some(pace) = pace(&ran.report) {
        tell_error!("{pace}");
    }
    tell_error!(
        "  used      {} memory, {} on the device, {:.2} GFLOP, {} host calls",
        bytes(number("peak_memory_bytes").unwrap_or_default() as u64),
        bytes(number("device_bytes_peak").unwrap_or_default() as u64),
        number("flops").unwrap_or_default() / 1e9,
        number("host_calls").unwrap_or_default(),
    );
    let lent = |name| bytes(number(name).unwrap_or_default() as u64);
    if number("weights_bytes").is_some_and(|weights| weights > 0.0) {
        tell_error!(
            "  shared    {} of weights, {} of adapters; {} on the device were keys and values",
            lent("weights_bytes"),
            lent("adapter_bytes"),
            lent("kv_bytes_peak"),
        );
    }
    let devices = ran
        .report
        .get("devices")
        .and_then(serde_json::Value::as_object);
    for (device, taken) in devices.into_iter().flatten() {
        let taken = taken.as_u64().unwrap_or_default();
        if taken > 0 {
            tell_error!("  computed  on {device}, {} of its memory", bytes(taken));
        }
    }
    let jobs = ran.report.get("jobs").and_then(serde_json::Value::as_array);
    for job in jobs.into_iter().flatten().filter_map(|job| job.as_str()) {
        tell_error!("  began     the job {}", short(job));
    }
    let reports = ran
        .report
        .get("reports")
        .and_then(serde_json::Value::as_array);
    for report in reports.into_iter().flatten() {
        let text = |name: &str| report.get(name).and_then(serde_json::Value::as_str);
        let output = text("output").unwrap_or_default();
        let evidence = text("evidence").unwrap_or_default();
        tell_error!("  reported  the output {}: {evidence}", short(output));
    }
    if ran.output.as_os_str() != "-" {
        tell_error!("  output    {}", ran.output.display());
    }
    if let Some(log) = ran.report.get("log").and_then(serde_json::Value::as_str)
        && !log.is_empty()
    {
        tell_error!("  log of the guest:\n{log}");
    }
}

/// How long a run took, and over how many records it was, if it was over any.
fn pace(report: &serde_json::Value) -> Option<String> {
    let number = |name: &str| report.get(name).and_then(serde_json::Value::as_f64);
    let seconds = number("seconds")?;
    let records = number("records").unwrap_or_default();
    let errors = number("errors").unwrap_or_default();
    if records + errors == 0.0 {
        return Some(format!("  took      {seconds:.2} s"));
    }
    Some(format!(
        "  records   {records} ({errors} with errors), {:.0} records/s, {seconds:.2} s",
        number("records_per_s").unwrap_or_default(),
    ))
}

fn print_inspected(inspected: &Inspected) {
    if let Some(package) = &inspected.package {
        tell!("{} ({})", package.reference, package.kind);
        if let Some(description) = &package.description {
            tell!("  {description}");
        }
        // What is not published has none yet.
        if !package.digest.is_empty() {
            tell!("  digest    {}", package.digest);
        }
        if let Some(base) = &package.base {
            tell!("  base      {base}");
        }
    }
    tell!("  found     {}", inspected.found);
    if let Some(component) = &inspected.component {
        tell!("  component {component}");
    }
    if let Some(world) = &inspected.world {
        tell!("  world     {world}");
    }
    list("imports", &inspected.imports);
    list("exports", &inspected.exports);
    list("grants", &inspected.grants);
    if let Some(limits) = inspected.limits.as_object() {
        let limits: Vec<String> = limits
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        list("limits", &limits);
    }
    for file in &inspected.files {
        tell!(
            "  file      {} {} {}",
            file.digest,
            bytes(file.bytes),
            file.path
        );
    }
    list("history", &inspected.history);
    if let Some(family) = &inspected.family {
        family::print(family);
    }
}

fn list(name: &str, items: &[String]) {
    for (index, item) in items.iter().enumerate() {
        tell!("  {:<9} {item}", if index == 0 { name } else { "" });
    }
}

fn print_listed(listed: &Listed) {
    if listed.packages.is_empty() {
        tell!(
            "there are none here; `skep install` fetches one, and `skep publish`, `skep model add` and \
             `skep adapter add` make one"
        );
    }
    for PackageLine {
        reference,
        digest,
        kind,
        task,
        bytes: size,
        ..
    } in &listed.packages
    {
        let kind = task.as_ref().unwrap_or(kind);
        tell!("{kind:<16} {reference} {} {}", bytes(*size), short(digest));
    }
}

fn print_removed(removed: &Removed) {
    for line in &removed.removed {
        tell!("removed {}", line.reference);
    }
}

fn print_status(status: &Status) {
    tell!("node {} (process {})", status.node, status.pid);
    tell!("  listens   {}", status.addresses.join(", "));
    tell!("  up        {:.0} s", status.seconds);
    tell!(
        "  serves    {} packages, {} of them models",
        status.packages,
        status.models
    );
    tell!("  knows of  {} other nodes by gossip", status.heard_of);
    tell!("  ticket    {}", status.ticket);
    tell!("  account   {}", status.account);
    tell!("  jobs      {}", jobs::taken(&status.jobs));
    if let Some(why) = &status.closed {
        tell!("  not now   {why}");
    }
    if let Some(label) = hardware::told(&status.hardware) {
        tell!("  attested  {label}");
    }
    let running: Vec<String> = status
        .running
        .iter()
        .map(|line| format!("{} for {:.0} s", line.package, line.seconds))
        .collect();
    match running.is_empty() {
        true => tell!("  runs      nothing"),
        false => list("runs", &running),
    }
    if !status.loaded.is_empty() {
        list("has open", &status.loaded);
    }
    let time = status.time_for_jobs;
    if time.computed_seconds > 0.0 {
        tell!(
            "  for jobs  language models computed {:.1} s, and stood still for {:.1} s after that",
            time.computed_seconds,
            time.rested_seconds
        );
    }
    let kept: Vec<String> = status
        .kept
        .iter()
        .map(|line| {
            let adapter = line.adapter.as_deref().map(short);
            let with = adapter.map_or_else(String::new, |adapter| format!(" with {adapter}"));
            format!(
                "{}{with} for {:.0} s more",
                short(&line.package),
                line.seconds
            )
        })
        .collect();
    if !kept.is_empty() {
        list("keeps", &kept);
    }
    if let Some(path) = &status.kept_damaged {
        tell!("  lost      what it was to keep ready: the list of it cannot be read, and is now");
        tell!("            {path}; remove that file once you have seen it");
    }
    let interrupted = status.interrupted;
    if interrupted.shards > 0 {
        tell!(
            "  cut off   {} of others so far, as this node was ended in the middle of them;",
            jobs::counted(interrupted.shards, "shard")
        );
        match interrupted.untold {
            0 => tell!("            who waited for them has been told"),
            untold => tell!("            who waited for {untold} of them is still to be told"),
        }
    }
}

fn short(digest: &str) -> &str {
    digest.get(..10).unwrap_or(digest)
}

/// A size for a person: three significant digits and a binary unit.
pub fn bytes(size: u64) -> String {
    indicatif::HumanBytes(size).to_string()
}

/// What a record of evidence is worth.
pub fn print_evidence(judged: &Judged) {
    let worth = match judged.worth {
        Worth::Holds => "holds",
        Worth::False => "is false",
        Worth::Unsound => "is unsound",
        Worth::Unknown => "cannot be judged",
    };
    let against = match &judged.node {
        Some(node) => format!(" against {}", short(node)),
        None => String::new(),
    };
    tell!("{:4}  {worth}{against}: {}", judged.line, judged.why);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

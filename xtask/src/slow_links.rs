//! Links between network namespaces that take their time: a delay and a rate in both directions of
//! each node's cable.
//!
//! The system has a queue that delays packets (netem), but not every kernel is built with it. So here
//! the cables end in this process, as network devices of programs (TUN): it reads whole packets from
//! each, keeps them for as long as a cable would, and writes them to the one that they are for. It
//! takes root, and must never touch a network other than those that it has made.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// What every cable is like, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Cable {
    /// From a node to the middle, or back.
    pub delay: Duration,
    /// Bits a second.
    pub rate: f64,
}

/// Packets that may be under way together: what is beyond that is lost, as in a router.
const MOST: usize = 20_000;
/// The longest packet that a device has here.
const LONGEST: usize = 2048;

/// Namespaces with a cable each, which meet in the middle. They end with this.
pub struct SlowLinks {
    names: Vec<String>,
}

impl SlowLinks {
    /// Connects so many nodes.
    ///
    /// # Errors
    /// When it may not, which it says: it takes root.
    pub fn new(nodes: usize, cable: Cable) -> Result<Self> {
        let name = |number: usize| format!("skep-{}-{number}", std::process::id());
        let links = Self {
            names: (0..nodes).map(name).collect(),
        };
        let mut ends = Vec::new();
        for (number, name) in links.names.iter().enumerate() {
            ip(&["netns", "add", name])?;
            ends.push(Arc::new(device_in(name)?));
            let address = format!("{}/24", Self::address(number));
            ip(&["-n", name, "addr", "add", &address, "dev", DEVICE])?;
            for device in [DEVICE, "lo"] {
                ip(&["-n", name, "link", "set", device, "up"])?;
            }
        }
        let middle = Arc::new(Middle::new(nodes, cable));
        for (from, end) in ends.iter().enumerate() {
            let (middle, end) = (Arc::clone(&middle), Arc::clone(end));
            thread::spawn(move || middle.take_all(from, &end));
        }
        thread::spawn(move || middle.pass_on(&ends));
        Ok(links)
    }

    /// Where a node is.
    pub fn address(number: usize) -> String {
        format!("10.213.8.{}", number + 1)
    }

    /// The name of a node's namespace.
    pub fn namespace(&self, number: usize) -> &str {
        &self.names[number]
    }
}

impl Drop for SlowLinks {
    fn drop(&mut self) {
        for name in &self.names {
            // It goes when the last process in it has ended, and its device with it: then who reads
            // from that is told so, and ends.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// The address's last number says which node a packet is for.
fn receiver(packet: &[u8]) -> Option<usize> {
    let version_4 = packet.first()? >> 4 == 4;
    let [10, 213, 8, last] = *packet.get(16..20)? else {
        return None;
    };
    version_4.then_some(usize::from(last).checked_sub(1)?)
}

/// A packet on its way.
#[derive(Debug, PartialEq, Eq)]
struct Under {
    /// When it is there.
    at: Instant,
    /// How many came before it: of two at the same moment the first one goes first.
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

impl Ord for Under {
    /// A heap gives the greatest, so that is the one that is there first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Under {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One direction of a cable.
#[derive(Debug, Clone, Copy)]
struct Way {
    cable: Cable,
    /// When it has sent what it was given so far.
    free: Instant,
}

impl Way {
    /// When a packet that comes now is at the other end.
    fn through(&mut self, now: Instant, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(8.0 * bytes as f64 / self.cable.rate);
        self.free = self.free.max(now) + takes;
        self.free + self.cable.delay
    }
}

/// Where the cables meet.
struct Middle {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// From each node, and to it.
    ways: Vec<[Way; 2]>,
    /// What is on its way to the middle.
    coming: BinaryHeap<Under>,
    /// What has passed it.
    going: BinaryHeap<Under>,
    taken: u64,
    /// One of the devices is gone.
    over: bool,
}

impl Middle {
    fn new(nodes: usize, cable: Cable) -> Self {
        let way = Way {
            cable,
            free: Instant::now(),
        };
        Self {
            state: Mutex::new(State {
                ways: vec![[way; 2]; nodes],
                coming: BinaryHeap::new(),
                going: BinaryHeap::new(),
                taken: 0,
                over: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes whatever a node sends.
    fn take_all(&self, from: usize, mut end: &File) {
        let mut packet = vec![0; LONGEST];
        while let Ok(bytes @ 1..) = end.read(&mut packet) {
            self.state().take(from, &packet[..bytes], Instant::now());
            self.changed.notify_all();
        }
        self.state().over = true;
        self.changed.notify_all();
    }

    /// Gives each packet to its node when its time has come.
    fn pass_on(&self, ends: &[Arc<File>]) {
        let mut state = self.state();
        while !state.over {
            let now = Instant::now();
            state = match state.arrived(now) {
                Ok(packet) => {
                    drop(state);
                    // A device that is full or gone loses what it is given, as a router would.
                    let _ = ends[packet.to].as_ref().write(&packet.packet);
                    self.state()
                }
                Err(Some(at)) => {
                    let waited = self.changed.wait_timeout(state, at.duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Err(None) => {
                    let waited = self.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, from: usize, packet: &[u8], now: Instant) {
        let Some(to) = receiver(packet).filter(|to| *to < self.ways.len()) else {
            return;
        };
        if self.coming.len() + self.going.len() >= MOST {
            return;
        }
        let at = self.ways[from][0].through(now, packet.len());
        self.taken += 1;
        self.coming.push(Under {
            at,
            number: self.taken,
            to,
            packet: packet.to_vec(),
        });
    }

    /// The next packet that is there by now, or when there will be one.
    fn arrived(&mut self, now: Instant) -> std::result::Result<Under, Option<Instant>> {
        while let Some(packet) = self.coming.pop_if_by(now) {
            let at = self.ways[packet.to][1].through(packet.at, packet.packet.len());
            self.going.push(Under { at, ..packet });
        }
        match self.going.pop_if_by(now) {
            Some(packet) => Ok(packet),
            None => {
                let next = [self.coming.peek(), self.going.peek()];
                Err(next.into_iter().flatten().map(|packet| packet.at).min())
            }
        }
    }
}

trait PopIfBy {
    fn pop_if_by(&mut self, now: Instant) -> Option<Under>;
}

impl PopIfBy for BinaryHeap<Under> {
    fn pop_if_by(&mut self, now: Instant) -> Option<Under> {
        match self.peek()?.at <= now {
            true => self.pop(),
            false => None,
        }
    }
}

/// The name of a node's device.
const DEVICE: &str = "cable";

/// A new network device in a namespace, whose packets this process sends and receives.
fn device_in(namespace: &str) -> Result<File> {
    let namespace = PathBuf::from("/run/netns").join(namespace);
    // A thread of its own, as it stays in that namespace.
    let made = thread::spawn(move || device_here(&namespace)).join();
    made.map_err(|_| anyhow!("the thread that makes a network device has ended"))?
}

fn device_here(namespace: &Path) -> Result<File> {
    let entered = File::open(namespace)?;
    // SAFETY: the file is open; only this thread changes its namespace.
    let result = unsafe { libc::setns(entered.as_raw_fd(), libc::CLONE_NEWNET) };
    check(result, "enter a network namespace")?;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    /// What the system call takes: a name, flags, and what it does not read here.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        // Whole packets of the internet protocol, and nothing before them.
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    ensure!(DEVICE.len() < libc::IFNAMSIZ, "the name is too long");
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: the file is open, and the request has the 40 bytes of the system's own structure.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(result, "make a network device")?;
    Ok(device)
}

fn check(result: libc::c_int, what: &str) -> Result<()> {
    match result {
        -1 => Err(std::io::Error::last_os_error()).with_context(|| format!("cannot {what}")),
        _ => Ok(()),
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let ended = Command::new("ip").args(arguments).output()?;
    match ended.status.success() {
        true => Ok(()),
        false => bail!(
            "ip {arguments:?}: {}",
            String::from_utf8_lossy(&ended.stderr).trim()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet for a node, of so many bytes.
    fn packet(to: u8, bytes: usize) -> Vec<u8> {
        let mut packet = vec![0; bytes];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 213, 8, to + 1]);
        packet
    }

    #[test]
    fn packets_take_both_cables_delay_and_the_time_of_their_bits() {
        let cable = Cable {
            delay: Duration::from_millis(100),
            rate: 1e6,
        };
        let middle = Middle::new(3, cable);
        let mut state = middle.state();
        let start = Instant::now();
        state.ways = vec![[Way { cable, free: start }; 2]; 3];
        // 1,000 bytes take 8 ms on each cable; the second waits for the first on both nodes' sides.
        state.take(0, &packet(1, 1000), start);
        state.take(0, &packet(1, 1000), start);
        // From another node, so that only the receiver's cable is shared.
        state.take(2, &packet(1, 1000), start);
        let mut there = Vec::new();
        let mut now = start;
        loop {
            match state.arrived(now) {
                Ok(packet) => there.push((packet.to, (now - start).as_millis())),
                Err(Some(at)) => now = at,
                Err(None) => break,
            }
        }
        assert_eq!(there, [(1, 216), (1, 224), (1, 232)]);
    }

    #[test]
    fn what_is_for_nobody_is_dropped() {
        assert_eq!(receiver(&packet(2, 40)), Some(2));
        assert_eq!(receiver(&[0x60; 40]), None);
        assert_eq!(receiver(&[0x45; 12]), None);
        let mut elsewhere = packet(2, 40);
        elsewhere[16] = 224;
        assert_eq!(receiver(&elsewhere), None);
    }
}

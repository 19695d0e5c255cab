//! The store with a small pool: by hand, and by whatever happens in any order.

use super::*;
use proptest::prelude::*;
use skep_decoder::{AdapterWeights, Decoder};
use skep_kernels::PageMemory;
use skep_kernels::kv::KvFormat;

const POOL: usize = 24;

/// Adapters of the decoder's tests, the first of rank 1, the last of rank 12.
const FOLDERS: [&str; 4] = ["layer", "plain", "stable", "patterns"];

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../decoder/tests")
        .join(path)
}

fn folder(number: usize) -> PathBuf {
    fixture("adapters").join(FOLDERS[number % FOLDERS.len()])
}

/// Pages that remember whether they are out.
struct Free(Vec<bool>);

impl Pages for Free {
    fn allocate(&mut self) -> Option<u32> {
        let page = self.0.iter().position(|out| !out)?;
        self.0[page] = true;
        Some(page as u32)
    }

    fn release(&mut self, page: u32) {
        assert!(self.0[page as usize], "page {page} is free");
        self.0[page as usize] = false;
    }

    fn free(&self) -> usize {
        self.0.iter().filter(|out| !**out).count()
    }
}

/// A store, its pool, and what the adapters' pages must hold.
struct World {
    store: AdapterStore,
    pool: PageMemory,
    pages: Free,
    contents: Vec<Vec<u8>>,
    /// The bytes of each adapter outside the pool.
    bytes: Vec<u64>,
}

impl World {
    fn new(memory_bytes: u64) -> Self {
        let decoder = Decoder::load(&fixture("models/llama")).unwrap();
        let page_bytes = decoder.kv_shape(KvFormat::F16).page_bytes() as usize;
        let options = StoreOptions {
            base: Arc::new(decoder),
            base_name: "tiny".to_owned(),
            page_bytes,
            memory_bytes,
        };
        let weights =
            |number: usize| -> AdapterWeights { load::read(&options, &folder(number)).unwrap() };
        let content = |number: usize| {
            let weights = weights(number);
            let count = weights.adapter().pages();
            let mut memory = PageMemory::new(page_bytes, count);
            let placed = weights.place(&mut memory, (0..count as u32).collect());
            bytes_of(&memory, placed.unwrap().pages())
        };
        Self {
            contents: (0..FOLDERS.len()).map(content).collect(),
            bytes: (0..FOLDERS.len())
                .map(|number| weights(number).adapter().bytes())
                .collect(),
            store: AdapterStore::new(options).unwrap(),
            pool: PageMemory::new(page_bytes, POOL),
            pages: Free(vec![false; POOL]),
        }
    }

    fn activate(&mut self, lease: &Lease) -> Option<ActiveAdapter> {
        let activated = self.store.activate(lease, &mut self.pool, &mut self.pages);
        activated.unwrap()
    }

    fn prefetch(&mut self, lease: &Lease) -> Residency {
        let fetched = self.store.prefetch(lease, &mut self.pool, &mut self.pages);
        fetched.unwrap()
    }

    /// Whether what an active adapter lies in is what is in its folder: its version's number.
    fn check(&self, active: &ActiveAdapter) {
        let number: usize = active._lease.version().parse().unwrap();
        let got = bytes_of(&self.pool, active.paged().pages());
        assert!(got == self.contents[number % FOLDERS.len()], "{number}");
    }

    fn settle(&mut self) {
        while self.store.wait() {}
        self.store.collect(&mut self.pages);
    }
}

fn bytes_of(memory: &PageMemory, pages: &[u32]) -> Vec<u8> {
    let pages = pages
        .iter()
        .map(|page| memory.page(*page as usize).unwrap());
    pages.flatten().copied().collect()
}

#[test]
fn tiers_are_doublings_of_the_rank() {
    let tiers: Vec<_> = [1, 8, 9, 16, 17, 32, 64, 128, 129, 256].map(tier).to_vec();
    assert_eq!(tiers, [0, 0, 1, 1, 2, 2, 3, 4, 5, 5]);
}

#[test]
fn names_are_added_replaced_and_removed_while_versions_are_in_use() {
    let mut world = World::new(u64::MAX);
    world.store.add("one", "0", folder(0)).unwrap();
    let taken = world.store.add("one", "1", folder(1));
    assert!(matches!(taken, Err(StoreError::Taken { .. })));
    let unknown = world.store.replace("two", "1", folder(1));
    assert!(matches!(unknown, Err(StoreError::Unknown { .. })));
    let old = world.store.acquire("one").unwrap();
    let active = world.activate(&old).unwrap();
    // A version that cannot be read leaves the name as it is.
    let wrong = world.store.replace("one", "x", fixture("models/llama"));
    assert!(matches!(wrong, Err(StoreError::Load(_))));
    assert_eq!(world.store.acquire("one").unwrap().version(), "0");
    world.store.replace("one", "1", folder(1)).unwrap();
    let new = world.store.acquire("one").unwrap();
    assert_eq!((old.version(), new.version()), ("0", "1"));
    let second = world.activate(&new).unwrap();
    world.check(&active);
    world.check(&second);
    drop(old);
    world.settle();
    world.check(&active);
    drop(active);
    world.settle();
    assert_eq!(world.pages.free(), POOL - new.pages());
    world.store.remove("one").unwrap();
    assert!(matches!(
        world.store.acquire("one"),
        Err(StoreError::Unknown { .. })
    ));
    assert!(world.store.list().is_empty());
    world.settle();
    world.check(&second);
    drop((second, new));
    world.settle();
    assert_eq!(world.pages.free(), POOL);
}

#[test]
fn adapters_go_down_by_tier_and_come_back_ahead_of_need() {
    // Memory for no idle adapter.
    let mut world = World::new(0);
    for (name, number) in [("a", 0), ("b", 4), ("c", 2), ("d", 6), ("e", 3)] {
        let version = number.to_string();
        world.store.add(name, &version, folder(number)).unwrap();
    }
    let residencies = |world: &World| -> Vec<Residency> {
        world
            .store
            .list()
            .iter()
            .map(|info| info.residency)
            .collect()
    };
    assert_eq!(residencies(&world), [Residency::Disk; 5]);
    let lease = |world: &mut World, name: &str| world.store.acquire(name).unwrap();
    let a = lease(&mut world, "a");
    assert!(world.activate(&a).is_none(), "it is on its way");
    assert!(world.store.wait() && !world.store.wait());
    assert_eq!(world.prefetch(&a), Residency::Device);
    for name in ["b", "c", "d"] {
        let lease = lease(&mut world, name);
        world.prefetch(&lease);
        world.settle();
        assert_eq!(world.prefetch(&lease), Residency::Device, "{name}");
    }
    // Room for one of rank 12, which takes the place of one of rank 9: the one used before.
    let e = lease(&mut world, "e");
    world.prefetch(&e);
    world.settle();
    let active = world.activate(&e).unwrap();
    world.check(&active);
    use Residency::{Device, Disk};
    assert_eq!(residencies(&world), [Device, Device, Disk, Device, Device]);
    // What is in use stays, what is not makes room for keys and values.
    let World {
        store, pool, pages, ..
    } = &mut world;
    assert_eq!(store.make_room(POOL, pool, pages), POOL - e.pages());
    assert_eq!(residencies(&world), [Disk, Disk, Disk, Disk, Device]);
    world.check(&active);
}

#[test]
fn what_is_parked_keeps_within_its_bytes() {
    let mut world = World::new(0);
    world.store.options.memory_bytes = world.bytes[2] + world.bytes[0];
    for number in [0, 2, 6, 10] {
        let name = number.to_string();
        world.store.add(&name, &name, folder(number)).unwrap();
    }
    let in_memory: Vec<_> = world
        .store
        .list()
        .into_iter()
        .filter(|info| info.residency == Residency::Memory)
        .map(|info| info.name)
        .collect();
    // The last of the large ones, and the small one, which the large ones did not push out.
    assert_eq!(in_memory, ["0", "10"]);
}

/// Three adapters of one size.
fn crowd(world: &mut World) -> Vec<Lease> {
    let names = ["a", "b", "c"];
    for (name, number) in names.iter().zip([1, 5, 9]) {
        let version = number.to_string();
        world.store.add(name, &version, folder(number)).unwrap();
    }
    let leases = names.map(|name| world.store.acquire(name).unwrap());
    leases.to_vec()
}

#[test]
fn what_leaves_the_pool_lies_in_memory_as_far_as_it_fits_and_then_on_disk() {
    let mut world = World::new(u64::MAX);
    let leases = crowd(&mut world);
    // Nothing that somebody holds goes to disk, so they are let go of.
    for lease in &leases {
        assert_eq!(world.prefetch(lease), Residency::Device);
    }
    world.store.options.memory_bytes = 2 * world.bytes[1];
    drop(leases);
    let World {
        store, pool, pages, ..
    } = &mut world;
    assert_eq!(store.make_room(POOL, pool, pages), POOL);
    let places: Vec<_> = store.list().iter().map(|info| info.residency).collect();
    use Residency::{Disk, Memory};
    assert_eq!(
        places,
        [Disk, Memory, Memory],
        "the first was used before the others"
    );
    // What comes back from either is what was there.
    for name in ["a", "b"] {
        let lease = world.store.acquire(name).unwrap();
        world.prefetch(&lease);
        world.settle();
        let active = world.activate(&lease).unwrap();
        world.check(&active);
    }
}

#[test]
fn what_was_in_use_last_goes_last() {
    let mut world = World::new(u64::MAX);
    let leases = crowd(&mut world);
    let [a, b, c] = leases.try_into().unwrap();
    let long = world.activate(&a).unwrap();
    drop(world.activate(&b).unwrap());
    drop(world.activate(&c).unwrap());
    // It was asked for before the others, and was in use until now.
    drop(long);
    world.store.used(&a);
    let World {
        store, pool, pages, ..
    } = &mut world;
    store.make_room(pages.free() + 1, pool, pages);
    let places: Vec<_> = store.list().iter().map(|info| info.residency).collect();
    use Residency::{Device, Memory};
    assert_eq!(places, [Device, Memory, Device]);
}

#[test]
fn a_folder_that_is_gone_is_said_to_be() {
    let mut world = World::new(0);
    let copy = std::env::temp_dir().join(format!("skep-adapter-{}", std::process::id()));
    std::fs::create_dir_all(&copy).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder(0).join(file), copy.join(file)).unwrap();
    }
    world.store.add("gone", "0", copy.clone()).unwrap();
    std::fs::remove_dir_all(copy).unwrap();
    let lease = world.store.acquire("gone").unwrap();
    assert!(world.activate(&lease).is_none());
    assert!(world.store.wait());
    let World {
        store, pool, pages, ..
    } = &mut world;
    let lost = store.activate(&lease, pool, pages).unwrap_err();
    assert!(matches!(lost, StoreError::Lost { .. }), "{lost}");
    assert!(lost.to_string().contains("gone"), "{lost}");
    let mut small = PageMemory::new(pool.page_bytes(), 1);
    store.add("large", "2", folder(2)).unwrap();
    let lease = store.acquire("large").unwrap();
    store.prefetch(&lease, &mut small, pages).unwrap();
    store.wait();
    let error = store.prefetch(&lease, &mut small, pages).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Replace(usize),
    Remove(usize),
    Acquire(usize),
    Prefetch(usize),
    Activate(usize),
    DropLease(usize),
    DropActive(usize),
    MakeRoom(usize),
    /// Keys and values take a page, or give one back.
    Take,
    Give,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0_usize..8;
    let step = prop_oneof![
        2 => number.clone().prop_map(Step::Add),
        1 => number.clone().prop_map(Step::Replace),
        1 => number.clone().prop_map(Step::Remove),
        4 => number.clone().prop_map(Step::Acquire),
        4 => number.clone().prop_map(Step::Prefetch),
        8 => number.clone().prop_map(Step::Activate),
        2 => number.clone().prop_map(Step::DropLease),
        4 => number.clone().prop_map(Step::DropActive),
        1 => (0..POOL).prop_map(Step::MakeRoom),
        1 => Just(Step::Take),
        1 => Just(Step::Give),
        3 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_pages_are_whose_they_are(
        steps in steps(),
        memory in prop::sample::select(vec![0_u64, 30_000, u64::MAX]),
    ) {
        let mut world = World::new(memory);
        let mut leases: Vec<Lease> = Vec::new();
        let mut active: Vec<ActiveAdapter> = Vec::new();
        let mut keys: Vec<u32> = Vec::new();
        let mut version = 0;
        for step in steps {
            match step {
                Step::Add(n) => {
                    version += 1;
                    let known = world.store.names.contains_key(&n.to_string());
                    let added =
                        world.store.add(&n.to_string(), &version.to_string(), folder(version));
                    prop_assert_eq!(added.is_err(), known);
                }
                Step::Replace(n) => {
                    version += 1;
                    let known = world.store.names.contains_key(&n.to_string());
                    let replaced =
                        world.store.replace(&n.to_string(), &version.to_string(), folder(version));
                    prop_assert_eq!(replaced.is_ok(), known);
                }
                Step::Remove(n) => drop(world.store.remove(&n.to_string())),
                Step::Acquire(n) => leases.extend(world.store.acquire(&n.to_string())),
                Step::Prefetch(n) if !leases.is_empty() => {
                    let lease = leases[n % leases.len()].clone();
                    world.prefetch(&lease);
                }
                Step::Activate(n) if !leases.is_empty() => {
                    let lease = leases[n % leases.len()].clone();
                    let before = world.store.residency(&lease);
                    match world.activate(&lease) {
                        Some(adapter) => {
                            world.check(&adapter);
                            active.push(adapter);
                        }
                        // It was on disk, or everything else is in use.
                        None => {
                            let used: usize = distinct(&active).map(|a| a.paged().pages().len()).sum();
                            let room = POOL - keys.len() - used;
                            prop_assert!(before == Residency::Disk || room < lease.pages());
                        }
                    }
                }
                Step::DropLease(n) if !leases.is_empty() => {
                    leases.remove(n % leases.len());
                }
                Step::DropActive(n) if !active.is_empty() => {
                    active.remove(n % active.len());
                }
                Step::MakeRoom(n) => {
                    let World { store, pool, pages, .. } = &mut world;
                    store.make_room(n, pool, pages);
                }
                Step::Take => keys.extend(world.pages.allocate()),
                Step::Give => keys.pop().into_iter().for_each(|page| world.pages.release(page)),
                Step::Wait => {
                    world.store.wait();
                }
                _ => {}
            }
            // No page has two owners, and every page that is out has one.
            let resident = world.store.slots.values().filter_map(|slot| match &slot.place {
                Place::Device(paged) => Some(paged.pages()),
                _ => None,
            });
            let mut owned: Vec<u32> = resident.flatten().chain(&keys).copied().collect();
            owned.sort_unstable();
            let out = world.pages.0.iter().enumerate().filter(|(_, out)| **out);
            let out: Vec<u32> = out.map(|(page, _)| page as u32).collect();
            prop_assert_eq!(owned, out);
            for adapter in &active {
                world.check(adapter);
            }
        }
        drop((leases, active));
        for name in world.store.names.keys().cloned().collect::<Vec<_>>() {
            world.store.remove(&name).unwrap();
        }
        world.settle();
        prop_assert!(world.store.slots.is_empty());
        prop_assert_eq!(world.pages.free(), POOL - keys.len());
    }
}

/// One of those that share an adapter in the pool.
fn distinct(active: &[ActiveAdapter]) -> impl Iterator<Item = &ActiveAdapter> {
    active.iter().enumerate().filter_map(|(n, adapter)| {
        let before = &active[..n];
        let same = |other: &ActiveAdapter| Arc::ptr_eq(&other.paged, &adapter.paged);
        (!before.iter().any(same)).then_some(adapter)
    })
}

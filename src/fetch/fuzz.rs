//! A fuzzer for what reads the bytes of strangers, on the stable toolchain and without an instrumented build: an input
//! whose outcome was not seen before joins the pool that further inputs are made of, which leads the search as coverage
//! does for others.
//!
//! Each target is a test. It runs its corpus (`tests/corpus/<target>`) first, then changes it at random, for a second
//! in `cargo test` and for as long as is asked in `make fuzz MINUTES=60`. An input that fails is written beside the corpus,
//! so that it fails from then on.

use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// How long each target runs, in seconds, and with which seed; a second and a new one if not said.
const SECONDS: &str = "HEADGATE_FUZZ_SECONDS";
const SEED: &str = "HEADGATE_FUZZ_SEED";

/// Longer inputs find nothing that shorter ones do not, and cost more.
const LONGEST: usize = 4096;

/// The outcomes of a target are few; this bounds those of one that is not made well.
const LARGEST_POOL: usize = 10_000;

/// Bytes that mean something somewhere.
const TELLING: &[u8] = b"\0\t\n\r \"\\/[]{},:.-+019aeEntf\x1F\x7F\x80\xBF\xC3\xEF\xFF";

/// Runs `check` on the corpus of a target and on inputs made of it and of `words`. It panics where a property does not
/// hold, and else tells the outcome in few words: the same for inputs that went the same way.
pub(super) fn fuzz(target: &str, words: &[&str], check: impl Fn(&[u8]) -> String) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut pool: Vec<Vec<u8>> = files(&corpus).iter().map(|file| fs::read(file).expect("the corpus")).collect();
    assert!(!pool.is_empty(), "{} holds no input", corpus.display());
    let seed = number(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        u64::from(now.subsec_nanos())
    });
    let length = Duration::from_secs(number(SECONDS).unwrap_or(1));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seen: HashSet<String> = HashSet::new();
    let run = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| check(input))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let kept = corpus.join(format!("failed-{seed}"));
            fs::write(&kept, input).expect("the input can be kept");
            eprintln!("{target}: the input that failed is {}", kept.display());
            resume_unwind(panic);
        }
    };

    seen.extend(pool.iter().map(|input| run(input)));
    let (begun, mut runs) = (Instant::now(), pool.len());
    while begun.elapsed() < length {
        let input = changed(&pool, words, &mut rng);
        if seen.insert(run(&input)) && pool.len() < LARGEST_POOL {
            pool.push(input);
        }
        runs += 1;
    }
    println!("{target}: {runs} inputs in {length:?}, {} outcomes, seed {seed}", seen.len());
}

/// One of the pool, changed a few times.
fn changed(pool: &[Vec<u8>], words: &[&str], rng: &mut StdRng) -> Vec<u8> {
    let mut input = pool.choose(rng).expect("the pool is not empty").clone();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=input.len());
        let end = rng.random_range(at..=input.len().min(at + 16));
        match rng.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = rng.random(),
            2 => input.insert(at, *TELLING.choose(rng).expect("some bytes")),
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].repeat(rng.random_range(1..=40));
                input.splice(at..at, again);
            }
            5 => {
                let other = pool.choose(rng).expect("the pool is not empty");
                let from = rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = words.choose(rng).copied().unwrap_or_default();
                input.splice(at..end.min(at + word.len()), word.bytes());
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// The kind of an error: neither a number in it nor a text of the spec makes it another outcome.
pub(super) fn kind(error: &str) -> String {
    error.split('`').step_by(2).flat_map(str::chars).filter(|letter| !letter.is_ascii_digit()).collect()
}

fn files(corpus: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(corpus).expect("the corpus of the target");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

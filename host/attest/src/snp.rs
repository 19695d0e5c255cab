//! A report of AMD SEV-SNP with the certificates of its processor, as one quote.
//!
//! The encoding is the report as the firmware gives it, 1,184 bytes, and then the three
//! certificates, processor first and root last: each its length as a big-endian `u32` and so many
//! bytes of DER.

use crate::Quote;
use crate::endorsement::{Endorsement, Roots};
use crate::error::QuoteError;
use crate::report::{Claims, REPORT_BYTES, Report};

/// The longest quote, in bytes. Certificates of the chain have some 1,700 each.
pub const MAX_QUOTE: usize = 16 << 10;

/// A report of AMD SEV-SNP with its chain of certificates.
pub struct SnpQuote {
    report: Report,
    chain: [Vec<u8>; 3],
}

impl SnpQuote {
    /// A quote of its parts: the report, and certificates in DER, processor first and root last.
    ///
    /// # Errors
    ///
    /// When the report has another length, or all of it is too long.
    pub fn new(report: &[u8], chain: [Vec<u8>; 3]) -> Result<Self, QuoteError> {
        let report = report
            .try_into()
            .map_err(|_| QuoteError::Form("a report has 1,184 bytes"))?;
        let bytes = REPORT_BYTES + chain.iter().map(|one| 4 + one.len()).sum::<usize>();
        if bytes > MAX_QUOTE {
            let limit = MAX_QUOTE;
            return Err(QuoteError::TooLong { bytes, limit });
        }
        let report = Report::new(report);
        Ok(Self { report, chain })
    }
}

impl Quote for SnpQuote {
    type Roots = Roots;

    const FORMAT: &'static str = "AMD SEV-SNP";

    fn decode(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::TooLong {
                bytes: bytes.len(),
                limit: MAX_QUOTE,
            });
        }
        let cut = QuoteError::Form("it ends too early");
        let (report, mut rest) = bytes
            .split_at_checked(REPORT_BYTES)
            .ok_or_else(|| cut.clone())?;
        let mut next = || {
            let (length, behind) = rest.split_first_chunk().ok_or_else(|| cut.clone())?;
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let (one, behind) = behind.split_at_checked(length).ok_or_else(|| cut.clone())?;
            rest = behind;
            Ok::<_, QuoteError>(one.to_vec())
        };
        let chain = [next()?, next()?, next()?];
        if !rest.is_empty() {
            return Err(QuoteError::Form("there is more behind its certificates"));
        }
        Self::new(report, chain)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.report.bytes().to_vec();
        for certificate in &self.chain {
            // No longer than `MAX_QUOTE`, which the constructors see to.
            let length = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(certificate);
        }
        bytes
    }

    fn check(&self, roots: &Roots, now: u64) -> Result<Claims, QuoteError> {
        let chain = self.chain.each_ref().map(Vec::as_slice);
        let endorsement = Endorsement::of(chain, roots, now)?;
        self.report.claims(&endorsement)
    }
}

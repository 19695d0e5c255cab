//! Arithmetic on few elements, computed where it is called.
//!
//! Burn takes some 350 ns to add four floats, nearly all of it for clones of handles and for
//! finding its way to a kernel. Two tensors of few elements that need neither broadcasting nor a
//! device are combined here instead, by the same IEEE 754 operation on the same elements: the
//! result has the same bits, and the same work and memory are charged for it.

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, Bytes, DispatchTensor, DispatchTensorKind};

use crate::cost;
use crate::dtype::DType;
use crate::error::TensorError;
use crate::launch::reserve;
use crate::tensor::{Owner, Storage, Tensor};

/// The most elements. Beyond it burn's vector kernels are worth their preparation.
const FEW: u64 = 512;

impl Tensor {
    /// Two `f32` tensors of one shape on the processor, element by element; nothing where they
    /// are anything else, or many elements.
    #[inline]
    pub(crate) fn combine_few(
        &self,
        operator: &'static str,
        weight: u64,
        other: &Tensor,
        combine: impl Fn(f32, f32) -> f32,
    ) -> Option<Result<Tensor, TensorError>> {
        let elements = self.elements();
        if elements > FEW || self.layout() != other.layout() {
            return None;
        }
        let (a, b) = (self.plain_f32()?, other.plain_f32()?);
        let left: &[f32] = bytemuck::try_cast_slice(a.bytes()).ok()?;
        let right: &[f32] = bytemuck::try_cast_slice(b.bytes()).ok()?;
        if left.len() as u64 != elements || right.len() != left.len() {
            return None;
        }
        let bytes = self.bytes();
        let work = cost::work(elements * weight, 3 * bytes);
        let charge = match self.account().charge(work, bytes) {
            Ok(charge) => charge,
            Err(refusal) => return Some(Err(refusal.into())),
        };
        let mut values = match reserve::<f32>(operator, left.len()) {
            Ok(values) => values,
            Err(error) => return Some(Err(error)),
        };
        values.extend(left.iter().zip(right).map(|(a, b)| combine(*a, *b)));
        let result = FlexTensor::new(Bytes::from_elems(values), a.layout().clone(), a.dtype());
        Some(Ok(Tensor::new(
            *self.layout(),
            DType::F32,
            *self.device(),
            Storage::Burn(DispatchTensor {
                kind: DispatchTensorKind::Flex(BackendTensor::Float(result)),
                autodiff: Default::default(),
            }),
            Owner::Charge(charge),
        )))
    }

    /// This tensor as the processor holds it, if it is `f32`.
    #[inline]
    fn plain_f32(&self) -> Option<&FlexTensor> {
        if self.dtype() != DType::F32 {
            return None;
        }
        match self.flat()? {
            DispatchTensor {
                kind: DispatchTensorKind::Flex(BackendTensor::Float(flex)),
                ..
            } => Some(flex),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Account, Device};

    fn tensor(account: &Account, values: &[f32], shape: &[u32]) -> Tensor {
        Tensor::from_f32(&Device::cpu(), account, values, shape).unwrap()
    }

    /// The same values once more than `FEW`, so that burn computes them, and once as few.
    #[test]
    fn few_elements_give_the_bits_that_many_give() {
        let account = Account::unlimited();
        let special = [
            0.0,
            -0.0,
            1.0,
            -3.5,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.1,
        ];
        let pairs: Vec<(f32, f32)> = special
            .iter()
            .flat_map(|a| special.iter().map(|b| (*a, *b)))
            .collect();
        let repeat = FEW as usize / pairs.len() + 1;
        let side = |of: fn(&(f32, f32)) -> f32| pairs.iter().map(of).collect::<Vec<_>>();
        let (left, right) = (side(|pair| pair.0), side(|pair| pair.1));
        let count = pairs.len() as u32;
        let few = |values: &[f32]| tensor(&account, values, &[count]);
        let many =
            |values: &[f32]| tensor(&account, &values.repeat(repeat), &[count * repeat as u32]);
        type Operator = fn(&Tensor, &Tensor) -> Result<Tensor, TensorError>;
        let operators: [Operator; 4] = [Tensor::add, Tensor::sub, Tensor::mul, Tensor::div];
        for operator in operators {
            let few = operator(&few(&left), &few(&right)).unwrap();
            let many = operator(&many(&left), &many(&right)).unwrap();
            let many = many.to_f32().unwrap();
            for (few, many) in few.to_f32().unwrap().iter().zip(&many) {
                let same = few.to_bits() == many.to_bits() || (few.is_nan() && many.is_nan());
                assert!(same, "{few} and {many}");
            }
        }
        assert_eq!(account.usage().device_bytes, 0);
    }

    #[test]
    fn few_elements_are_charged_and_refused_like_many() {
        let account = Account::new(crate::Limits {
            device_memory: 40,
            ..crate::Limits::UNLIMITED
        });
        let a = tensor(&account, &[1.0, 2.0, 3.0, 4.0], &[4]);
        let before = account.usage();
        let sum = a.add(&a).unwrap();
        let after = account.usage();
        assert_eq!(after.device_bytes - before.device_bytes, 16);
        assert_eq!(after.flops - before.flops, cost::work(4, 48));
        assert_eq!(after.operators - before.operators, 1);
        assert!(matches!(sum.add(&a), Err(TensorError::Quota(_))));
        drop((a, sum));
        assert_eq!(account.usage().device_bytes, 0);
    }

    #[test]
    fn a_result_is_a_tensor_like_any_other() {
        let account = Account::unlimited();
        let a = tensor(&account, &[1.0, 2.0, 3.0, 4.0], &[2, 2]);
        let product = a.add(&a).unwrap().matmul(&a).unwrap();
        assert_eq!(product.to_f32().unwrap(), [14.0, 20.0, 30.0, 44.0]);
        let scalar = tensor(&account, &[3.0], &[]);
        let nine = scalar.mul(&scalar).unwrap();
        assert_eq!((nine.shape(), nine.to_f32().unwrap()), (&[][..], vec![9.0]));
    }
}

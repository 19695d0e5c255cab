//! The tensor: what it holds, how one is made and how its values come back.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{
    BackendTensor, Bytes, Dispatch, DispatchTensor, DispatchTensorKind, TensorData,
};

use crate::cost;
use crate::device::Device;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::launch::{guard, reserve};
use crate::shape::Shape;
use skep_accounts::{Account, MemoryCharge};

/// A dense tensor on a device.
///
/// Its values never change: every operator returns a new tensor, charged to the account of the
/// tensor that it is a method of. A clone is the same tensor; its memory is given back when the
/// last clone, and the last [`reshape`](Self::reshape) of it, is dropped.
///
/// Every operator returns [`TensorError::Invalid`] if its arguments do not fit together, and
/// then nothing was charged, unless only the values show it (an index out of range, an integer
/// divided by 0): then the work of looking was. It returns [`TensorError::Quota`] if the account
/// refuses, and then nothing was charged either.
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    shape: Shape,
    dtype: DType,
    device: Device,
    storage: Storage,
    owner: Owner,
}

/// Where the elements are.
pub(crate) enum Storage {
    /// There is none. Burn never sees a tensor without elements, because its backends disagree
    /// on them, and because the extents of one may multiply to anything.
    Empty,
    /// Row-major, without gaps, from the start of a buffer that holds nothing else. Burn's shape
    /// is the tensor's, or [1] for a scalar.
    Burn(DispatchTensor),
}

/// Who pays for the storage.
pub(crate) enum Owner {
    /// This tensor.
    Charge(MemoryCharge),
    /// The tensor that this one shares its storage with, which itself pays.
    Shared(Tensor),
}

impl Tensor {
    /// A tensor of the given shape and dtype from its elements' bytes, row-major and
    /// little-endian.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the number of bytes is not that of shape and dtype.
    pub fn from_bytes(
        device: &Device,
        account: &Account,
        data: &[u8],
        shape: &[u32],
        dtype: DType,
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new("from-bytes", shape)?;
        if shape.bytes(dtype) != data.len() as u64 {
            return Err(TensorError::Invalid(format!(
                "from-bytes: {} bytes given, but a {dtype} tensor of shape {shape} has {}",
                data.len(),
                shape.bytes(dtype)
            )));
        }
        with_element!(dtype, E => Self::build::<E>(device, account, shape, cost::write(shape.bytes(dtype)), |out| {
            bytemuck::cast_slice_mut(out).copy_from_slice(data);
            Ok(())
        }))
    }

    /// An `f32` tensor of the given shape from its elements, row-major.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the number of elements is not that of the shape.
    pub fn from_f32(
        device: &Device,
        account: &Account,
        data: &[f32],
        shape: &[u32],
    ) -> Result<Tensor, TensorError> {
        Self::from_elements("from-f32", device, account, data, shape)
    }

    /// An `i32` tensor of the given shape from its elements, row-major.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the number of elements is not that of the shape.
    pub fn from_i32(
        device: &Device,
        account: &Account,
        data: &[i32],
        shape: &[u32],
    ) -> Result<Tensor, TensorError> {
        Self::from_elements("from-i32", device, account, data, shape)
    }

    /// A tensor in which every element is 0.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn zeros(
        device: &Device,
        account: &Account,
        shape: &[u32],
        dtype: DType,
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new("zeros", shape)?;
        with_element!(dtype, E => Self::build::<E>(device, account, shape, cost::write(shape.bytes(dtype)), |_| Ok(())))
    }

    /// A tensor in which every element is `value`, rounded to the dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn full(
        device: &Device,
        account: &Account,
        shape: &[u32],
        value: f32,
        dtype: DType,
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new("full", shape)?;
        with_element!(dtype, E => Self::build::<E>(device, account, shape, cost::write(shape.bytes(dtype)), |out| {
            out.fill(E::from_f32(value));
            Ok(())
        }))
    }

    fn from_elements<E: Element>(
        operator: &'static str,
        device: &Device,
        account: &Account,
        data: &[E],
        shape: &[u32],
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new(operator, shape)?;
        if shape.elements() != data.len() as u64 {
            return Err(TensorError::Invalid(format!(
                "{operator}: {} elements given, but the shape {shape} has {}",
                data.len(),
                shape.elements()
            )));
        }
        Self::build::<E>(
            device,
            account,
            shape,
            cost::write(shape.bytes(E::DTYPE)),
            |out| {
                out.copy_from_slice(data);
                Ok(())
            },
        )
    }

    /// The shape, outermost extent first.
    pub fn shape(&self) -> &[u32] {
        self.0.shape.extents()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The device that the elements are on.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The account that pays for this tensor and for what its methods return.
    pub fn account(&self) -> &Account {
        match &self.0.owner {
            Owner::Charge(charge) => charge.account(),
            Owner::Shared(root) => root.account(),
        }
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.0.shape.elements()
    }

    /// The bytes of the elements.
    pub fn bytes(&self) -> u64 {
        self.0.shape.bytes(self.0.dtype)
    }

    /// All elements as bytes, row-major and little-endian.
    ///
    /// # Errors
    /// Those of every operator. The copy that is returned is the caller's and not charged.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TensorError> {
        self.account().charge_work(cost::read(self.bytes()))?;
        with_element!(self.dtype(), E => {
            let values = self.values::<E>("to-bytes")?;
            copied("to-bytes", bytemuck::cast_slice(&values))
        })
    }

    /// All elements of an `f32` tensor, row-major.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the dtype is another.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        self.to_elements("to-f32")
    }

    /// All elements of an `i32` tensor, row-major.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the dtype is another.
    pub fn to_i32(&self) -> Result<Vec<i32>, TensorError> {
        self.to_elements("to-i32")
    }

    fn to_elements<E: Element>(&self, operator: &'static str) -> Result<Vec<E>, TensorError> {
        if self.dtype() != E::DTYPE {
            return Err(TensorError::Invalid(format!(
                "{operator}: the tensor is {}, not {}",
                self.dtype(),
                E::DTYPE
            )));
        }
        self.account().charge_work(cost::read(self.bytes()))?;
        copied(operator, &self.values::<E>(operator)?)
    }

    /// Gives `read` the elements of an `f32` tensor without copying them where the device is
    /// the processor.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the dtype is another.
    pub fn with_f32<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Result<R, TensorError> {
        if self.dtype() != DType::F32 {
            return Err(TensorError::Invalid(format!(
                "with-f32: the tensor is {}, not f32",
                self.dtype()
            )));
        }
        self.account().charge_work(cost::read(self.bytes()))?;
        Ok(read(&self.values::<f32>("with-f32")?))
    }
}

/// What the rest of the crate builds tensors from and reads them with.
impl Tensor {
    pub(crate) fn layout(&self) -> &Shape {
        &self.0.shape
    }

    pub(crate) fn new(
        shape: Shape,
        dtype: DType,
        device: Device,
        storage: Storage,
        owner: Owner,
    ) -> Tensor {
        Tensor(Arc::new(Inner {
            shape,
            dtype,
            device,
            storage,
            owner,
        }))
    }

    /// This tensor's storage under another shape of as many elements.
    pub(crate) fn share(&self, shape: Shape, storage: Storage) -> Tensor {
        let root = match &self.0.owner {
            Owner::Charge(_) => self.clone(),
            Owner::Shared(root) => root.clone(),
        };
        Tensor::new(
            shape,
            self.dtype(),
            *self.device(),
            storage,
            Owner::Shared(root),
        )
    }

    /// A tensor whose elements the host computes: charges memory and `work`, then lets `fill`
    /// write over zeros.
    pub(crate) fn build<E: Element>(
        device: &Device,
        account: &Account,
        shape: Shape,
        work: u64,
        fill: impl FnOnce(&mut [E]) -> Result<(), TensorError>,
    ) -> Result<Tensor, TensorError> {
        Self::build_with_scratch(device, account, shape, work, 0, fill)
    }

    /// As [`Self::build`], with `scratch` bytes charged until `fill` returns.
    pub(crate) fn build_with_scratch<E: Element>(
        device: &Device,
        account: &Account,
        shape: Shape,
        work: u64,
        scratch: u64,
        fill: impl FnOnce(&mut [E]) -> Result<(), TensorError>,
    ) -> Result<Tensor, TensorError> {
        let bytes = shape.bytes(E::DTYPE);
        let mut charge = account.charge(work, bytes.saturating_add(scratch))?;
        let mut values = zeroed::<E>(shape.len())?;
        fill(&mut values)?;
        charge.resize(bytes)?;
        Self::adopt(device, charge, shape, values)
    }

    /// A tensor of elements that `charge` has already paid for.
    pub(crate) fn adopt<E: Element>(
        device: &Device,
        charge: MemoryCharge,
        shape: Shape,
        values: Vec<E>,
    ) -> Result<Tensor, TensorError> {
        let storage = if shape.is_empty() {
            Storage::Empty
        } else {
            let data = TensorData::try_from_bytes(
                Bytes::from_elems(values),
                shape.to_burn(0),
                burn_dtype(E::DTYPE),
            )
            .map_err(|error| TensorError::Failed(error.to_string()))?;
            Storage::Burn(guard("upload", || {
                let device = device.dispatch();
                if E::DTYPE.is_float() {
                    Dispatch::float_from_data(data, &device)
                } else {
                    Dispatch::int_from_data(data, &device)
                }
            })?)
        };
        Ok(Tensor::new(
            shape,
            E::DTYPE,
            *device,
            storage,
            Owner::Charge(charge),
        ))
    }

    /// The tensor as burn holds it, if it has elements.
    #[inline]
    pub(crate) fn flat(&self) -> Option<&DispatchTensor> {
        match &self.0.storage {
            Storage::Burn(tensor) => Some(tensor),
            Storage::Empty => None,
        }
    }

    /// The tensor as burn holds it.
    ///
    /// # Errors
    /// [`TensorError::Failed`] if there are no elements, which every caller has ruled out.
    #[inline]
    pub(crate) fn as_burn(&self, operator: &'static str) -> Result<&DispatchTensor, TensorError> {
        match &self.0.storage {
            Storage::Burn(tensor) => Ok(tensor),
            Storage::Empty => Err(TensorError::Failed(format!(
                "{operator}: there is nothing to compute on"
            ))),
        }
    }

    /// As [`Self::as_burn`], to be given away.
    pub(crate) fn burn(&self, operator: &'static str) -> Result<DispatchTensor, TensorError> {
        self.as_burn(operator).cloned()
    }

    /// The elements, which must be of this tensor's dtype: borrowed where the device is the
    /// processor, and else a copy whose memory is charged.
    pub(crate) fn values<E: Element>(
        &self,
        operator: &'static str,
    ) -> Result<Values<'_, E>, TensorError> {
        let Storage::Burn(tensor) = &self.0.storage else {
            return Ok(Values::Borrowed(&[]));
        };
        if let Some(bytes) = cpu_bytes(tensor) {
            let values = bytemuck::try_cast_slice(bytes)
                .map_err(|error| TensorError::Failed(format!("{operator}: {error}")))?;
            return Ok(Values::Borrowed(values));
        }
        let charge = self.account().charge_memory(self.bytes())?;
        let tensor = tensor.clone();
        let float = self.dtype().is_float();
        let data = guard(operator, || {
            if float {
                burn::backend::read_sync(Dispatch::float_into_data(tensor))
            } else {
                burn::backend::read_sync(Dispatch::int_into_data(tensor))
            }
        })?
        .map_err(|error| TensorError::Failed(format!("{operator}: {error:?}")))?;
        let values = copied(
            operator,
            bytemuck::try_cast_slice(data.as_bytes())
                .map_err(|error| TensorError::Failed(format!("{operator}: {error}")))?,
        )?;
        Ok(Values::Copied(values, charge))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tensor({} {} on {})",
            self.dtype(),
            self.0.shape,
            self.device().name()
        )
    }
}

/// A tensor's elements on the host.
pub(crate) enum Values<'a, E> {
    /// Where they lie.
    Borrowed(&'a [E]),
    /// Copied from the device, with the charge for the copy.
    Copied(
        Vec<E>,
        #[expect(dead_code, reason = "held for its drop")] MemoryCharge,
    ),
}

impl<E> Deref for Values<'_, E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        match self {
            Values::Borrowed(values) => values,
            Values::Copied(values, _) => values,
        }
    }
}

/// The dtype as burn names it.
pub(crate) fn burn_dtype(dtype: DType) -> burn::backend::DType {
    match dtype {
        DType::F32 => burn::backend::DType::F32,
        DType::F16 => burn::backend::DType::F16,
        DType::Bf16 => burn::backend::DType::BF16,
        DType::I32 => burn::backend::DType::I32,
        DType::U8 => burn::backend::DType::U8,
    }
}

/// The bytes of a tensor on the processor.
fn cpu_bytes(tensor: &DispatchTensor) -> Option<&[u8]> {
    match &tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(flex) | BackendTensor::Int(flex)) => {
            Some(flex.bytes())
        }
        _ => None,
    }
}

fn zeroed<E: Element>(len: usize) -> Result<Vec<E>, TensorError> {
    let mut values = reserve("allocate", len)?;
    values.resize(len, E::zeroed());
    Ok(values)
}

fn copied<E: Copy>(operator: &'static str, values: &[E]) -> Result<Vec<E>, TensorError> {
    let mut copy = reserve(operator, values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

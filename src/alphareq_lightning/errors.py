"""Every error and warning this package raises; imports nothing."""


class AlphaReQError(Exception):
    """Base of all errors raised on purpose by this package."""


class OptionError(AlphaReQError, ValueError):
    """A constructor or function option is outside what is documented."""


class SpectrumError(AlphaReQError, ValueError):
    """The features have no usable eigenspectrum: too few, not finite, or collapsed."""


class FitRangeError(AlphaReQError, ValueError):
    """The fit range is empty or reaches past the ranks that the features can attain."""


class FeatureTapError(AlphaReQError, RuntimeError):
    """No features can be taken from the layer that was asked for."""


class SelectionError(AlphaReQError, ValueError):
    """Records cannot be read, or cannot be ranked together."""


class ReadoutError(AlphaReQError, ValueError):
    """The features of this one model cannot be read out; a search over models goes on."""


class DataError(AlphaReQError, ValueError):
    """Images or labels that a recipe needs are missing or do not fit."""


class WeightsError(DataError, SelectionError):
    """A file of weights cannot be read safely, or does not fit the model."""


class SweepError(AlphaReQError, RuntimeError):
    """A sweep cannot reach its storage, or the storage holds something else."""


class AlphaReQWarning(UserWarning):
    """Base of all warnings; turn it into an error with the standard warning filters."""


class NoFitWarning(AlphaReQWarning):
    """α could not be computed for one validation; NaN was logged and training goes on."""


class PoorFitWarning(AlphaReQWarning):
    """The spectrum is not a straight line in the fit range (low R²)."""


class UndersampledWarning(AlphaReQWarning):
    """Fewer samples than features: the tail of the spectrum is missing and α reads low."""


class RoundedTailWarning(AlphaReQWarning):
    """Singular values that cannot be told from rounding were left out, and they add up."""


class EigensolverWarning(AlphaReQWarning):
    """The eigenvalue solver of the device failed and the CPU was used instead."""


class ImageWarning(AlphaReQWarning):
    """An image could not be read and was left out of its batch."""


class HistoryWarning(AlphaReQWarning):
    """A checkpoint's history of α could not be read; training goes on with an empty one."""


class CourseWarning(AlphaReQWarning):
    """A training fails, as far as the course of its α tells, or its features have collapsed."""


class OutputWarning(AlphaReQWarning):
    """A figure could not be drawn or written; training goes on without it."""


class LayerWarning(AlphaReQWarning):
    """Checkpoints hold records of several layers, and none was named."""


class LoaderWarning(AlphaReQWarning):
    """Several validation dataloaders, and the one that is measured may not be the one meant."""


class SharedKeyWarning(AlphaReQWarning):
    """Something else logs under a key of the monitor, and Lightning makes one value of both."""


class PaddingWarning(AlphaReQWarning):
    """Sequences of several lengths were averaged over all their tokens, padding included."""


class StaleValueWarning(AlphaReQWarning):
    """A callback reads α more often than it is measured."""

"""Where compiled programs are kept, for the command line and for workers."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder in which compiled programs are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scorepriors" / "xla"
    return Path(os.environ.get("SCOREPRIORS_CACHE", default))


def prepare_jax(devices: int = 1) -> None:
    """Enable the cache of compiled programs, and set the number of devices."""
    import jax

    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a writable home programs are compiled again in each run
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)

"""PyInstaller's hook for this package: its default model is no module, so it has to be named."""  # noqa: N999

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("nin_edge_runtime")

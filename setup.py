"All metadata lives in settings.ini, where nbdev reads it too."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
c = cfg['DEFAULT']
setup(name=c['lib_name'], version=c['version'], description=c['description'], keywords=c['keywords'],
      long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else c['description'],
      long_description_content_type='text/markdown', license='Apache-2.0', author=c['author'],
      author_email=c['author_email'], url=c['git_url'], python_requires=f">={c['min_python']}",
      packages=find_packages(include=[c['lib_path'], f"{c['lib_path']}.*"]), include_package_data=True,
      package_data={c['lib_path']: ['weights/*', 'weights/*/*']}, install_requires=c['requirements'].split(),
      extras_require={k: c[f'{k}_requirements'].split() for k in ('dev', 'torchvision', 'meteor', 'svp')},
      # nbdev finds the index of symbols by this entry point: without it pages have no source link and no symbol link
      entry_points=dict(console_scripts=c['console_scripts'].split('\n'), nbdev=[f"{c['lib_name']}={c['lib_path']}._modidx:d"]),
      zip_safe=False)

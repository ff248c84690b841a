"""Write the maps in configs/networks: Chinanet from TopoHub, and the eight hubs with great-circle links.

    python benchmarks/network_maps.py

Carbon factors are those of the provinces for 2023 (grams of CO2 per kWh, CO2 alone), as in codecarbon 3.3.2 under
data/private_infra/2023/china_provincial_emissions.json, which names its source: Ministry of Ecology and Environment
and National Bureau of Statistics of China, Announcement 2025 No. 47, table 3. There is none for Tibet and Hong Kong.
"""

from __future__ import annotations

import io
import math
import textwrap
from typing import Any

from ruamel.yaml import YAML

from benchmarks.common import ROOT
from fedcore.network.maps import Place, import_map
from fedcore.network.topology import Aggregator, Link, Site, TopologyFile

FACTORS = {
    "Anhui": 655.3, "Beijing": 555.4, "Chongqing": 558.1, "Fujian": 421.1, "Gansu": 447.1, "Guangdong": 441.9,
    "Guangxi": 447.6, "Guizhou": 568.3, "Hainan": 364.8, "Hebei": 651.6, "Heilongjiang": 522.9, "Henan": 589.7,
    "Hubei": 404.4, "Hunan": 497.6, "Inner Mongolia": 647.9, "Jiangsu": 582.7, "Jiangxi": 583.6, "Jilin": 467.1,
    "Liaoning": 487.8, "Ningxia": 618.7, "Qinghai": 179.6, "Shaanxi": 633.5, "Shandong": 619.1, "Shanghai": 573.7,
    "Shanxi": 663.4, "Sichuan": 156.4, "Tianjin": 679.6, "Xinjiang": 602.1, "Yunnan": 133.3, "Zhejiang": 497.4,
}  # fmt: skip
PROVINCES = {
    "Lhasa": "Tibet", "Lanzhou": "Gansu", "Kashi": "Xinjiang", "Shiquanhe": "Tibet", "Jinan": "Shandong",
    "Qingdao": "Shandong", "Taiyuan": "Shanxi", "Shilazhuang": "Hebei", "Shanghai": "Shanghai", "Suzhou": "Jiangsu",
    "Nanning": "Guangxi", "Changsha": "Hunan", "Guiyang": "Guizhou", "Chongqing": "Chongqing", "Chengdu": "Sichuan",
    "Kunming": "Yunnan", "Xi'an": "Shaanxi", "Zhengzhou": "Henan", "Haikou": "Hainan", "Hong Kong": "Hong Kong",
    "Hangzhou": "Zhejiang", "Wuhan": "Hubei", "Hefei": "Anhui", "Nanjing": "Jiangsu", "Guangzhou": "Guangdong",
    "Xiamen": "Fujian", "Fuzhou": "Fujian", "Nandhang": "Jiangxi", "Xining": "Qinghai", "Urumqi": "Xinjiang",
    "Harbin": "Heilongjiang", "Changchun": "Jilin", "Shenyang": "Liaoning", "Dalian": "Liaoning",
    "Tianjin": "Tianjin", "Beijing": "Beijing", "Hohhot": "Inner Mongolia", "Yinchuan": "Ningxia",
}  # fmt: skip
HUBS = {
    "zhangjiakou": ("Hebei", 40.77, 114.88), "wuhu": ("Anhui", 31.33, 118.38), "shaoguan": ("Guangdong", 24.81, 113.60),
    "chengdu": ("Sichuan", 30.57, 104.07), "horinger": ("Inner Mongolia", 40.38, 111.82),
    "guian": ("Guizhou", 26.40, 106.55), "qingyang": ("Gansu", 35.71, 107.64), "zhongwei": ("Ningxia", 37.50, 105.20),
}  # fmt: skip
HUB_LINKS = (
    "zhangjiakou horinger", "zhangjiakou wuhu", "zhangjiakou qingyang", "horinger zhongwei", "horinger qingyang",
    "zhongwei qingyang", "zhongwei chengdu", "qingyang chengdu", "chengdu guian", "guian shaoguan", "shaoguan wuhu",
    "wuhu qingyang", "guian wuhu", "wuhu chengdu",
)  # fmt: skip
DETOUR = 1.3
ROLE = Aggregator(
    ingress_mbit_s=10_000, merge_mb_s=1000, cost=0.02, kwh=0.003, security=4, attested=("measured_boot",)
)
ASSUMED = (
    "aggregators: 10 Gbit/s in, 1,000 MB/s added up, 0.02 CNY and 0.003 kWh for a round, level 4",
    "latency: 5 us for a km of fibre and 0.05 ms for the ends of a link",
)
CARBON = (
    "carbon: provincial average factors of electricity 2023, CO2 alone: Ministry of Ecology and Environment and "
    "National Bureau of Statistics of China, Announcement 2025 No. 47, table 3, as in codecarbon 3.3.2 (MIT)"
)


def chinanet() -> TopologyFile:
    """The backbone of China Telecom as the Internet Topology Zoo has it."""
    import topohub

    places = {
        city: Place(
            region,
            "HK" if region == "Hong Kong" else "CN",
            FACTORS.get(region),
            ROLE if region in FACTORS else None,
        )
        for city, region in PROVINCES.items()
    }
    return import_map(
        topohub.get("topozoo/Chinanet"),
        name="chinanet",
        places=places,
        otherwise=Place("", "CN", None),
        mbit_s=100_000,
        about="38 cities and 62 links of the Chinanet backbone; names and positions as in the source",
        source="map: TopoHub 1.5.1, topozoo/Chinanet, after the Internet Topology Zoo (Knight et al. 2011); "
        + CARBON,
        licence="MIT (TopoHub)",
        assumptions=(
            *ASSUMED,
            "links: 100 Gbit/s each, lengths as in the source, where Hong Kong stands in Sichuan",
        ),
    )


def hubs() -> TopologyFile:
    """The eight national hubs, each at one of its clusters."""
    sites = {
        name: Site(
            tier="hub", jurisdiction="CN", latitude=latitude, longitude=longitude, region=region,
            carbon_g_per_kwh=FACTORS[region], pue=1.2, egress_price=0.2, aggregator=ROLE,
        )
        for name, (region, latitude, longitude) in HUBS.items()
    }  # fmt: skip
    links = []
    for pair in HUB_LINKS:
        one, other = pair.split()
        km = round(great_circle_km(HUBS[one][1:], HUBS[other][1:]) * DETOUR)
        links.append(Link(ends=(one, other), km=km, mbit_s=100_000, source="derived"))
    return TopologyFile(
        name="eight-hubs",
        about="the eight national computing hubs of China, each at one of its clusters",
        source=CARBON + "; positions of the cities: public geography",
        licence="Apache-2.0, with the project",
        assumptions=(
            *ASSUMED,
            f"links: which there are, 100 Gbit/s each, and {DETOUR:g} times the great circle for their length",
            "sites: PUE 1.2, traffic out 0.2 CNY for a GB",
        ),
        sites=sites,
        links=tuple(links),
    )


def great_circle_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Between two places by latitude and longitude in degrees, on a sphere of 6,371 km."""
    (a, b), (c, d) = (map(math.radians, place) for place in (one, other))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))


def written(file: TopologyFile) -> str:
    """As YAML; what has its default is left out."""
    data: dict[str, Any] = file.model_dump(mode="json", exclude_defaults=True)
    yaml = YAML()
    yaml.width, yaml.default_flow_style = 110, None
    stream = io.StringIO()
    yaml.dump(data, stream)
    head = textwrap.fill(f"{file.about}. Written by benchmarks/network_maps.py.", 108)
    return "\n".join(f"# {line}" for line in head.splitlines()) + "\n" + stream.getvalue()


def main() -> None:
    """Write both."""
    folder = ROOT / "configs" / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in (("chinanet", chinanet()), ("eight_hubs", hubs())):
        (folder / f"{name}.yaml").write_text(written(file))


if __name__ == "__main__":
    main()

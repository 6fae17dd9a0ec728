"""What the pocket model knows: small bilingual tables of facts. Data only; `skills.py` turns them into questions.

Every table is written for this project. Each line is one fact, columns are split by `|`; a `/` inside
a column separates alternative names for the same thing, the first being the one used in answers.
"""

from __future__ import annotations

from typing import Final

Row = tuple[str, ...]


def _table(text: str) -> tuple[Row, ...]:
    """Lines of `a|b|c` -> tuples of stripped columns."""
    lines = (line.strip() for line in text.strip().splitlines())
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in lines if line)


def words(text: str) -> tuple[str, ...]:
    """`a; b; c` over any number of lines -> ("a", "b", "c")."""
    return tuple(item.strip() for item in text.replace("\n", ";").split(";") if item.strip())


def _pairs(text: str) -> tuple[Row, ...]:
    """`a|b; c|d` over any number of lines -> (("a", "b"), ("c", "d"))."""
    return tuple(tuple(pair.split("|")) for pair in words(text))


# English name(s) | Chinese name(s) | capital | capital in Chinese
CAPITALS: Final = _table("""
    China|中国|Beijing|北京
    Japan|日本|Tokyo|东京
    France|法国|Paris|巴黎
    Germany|德国|Berlin|柏林
    Italy|意大利|Rome|罗马
    Spain|西班牙|Madrid|马德里
    Portugal|葡萄牙|Lisbon|里斯本
    the United Kingdom/the UK/Britain/England/Great Britain|英国|London|伦敦
    Ireland|爱尔兰|Dublin|都柏林
    the Netherlands/Holland|荷兰|Amsterdam|阿姆斯特丹
    Belgium|比利时|Brussels|布鲁塞尔
    Switzerland|瑞士|Bern|伯尔尼
    Austria|奥地利|Vienna|维也纳
    Poland|波兰|Warsaw|华沙
    the Czech Republic/Czechia|捷克|Prague|布拉格
    Hungary|匈牙利|Budapest|布达佩斯
    Romania|罗马尼亚|Bucharest|布加勒斯特
    Bulgaria|保加利亚|Sofia|索非亚
    Serbia|塞尔维亚|Belgrade|贝尔格莱德
    Croatia|克罗地亚|Zagreb|萨格勒布
    Greece|希腊|Athens|雅典
    Turkey|土耳其|Ankara|安卡拉
    Russia|俄罗斯|Moscow|莫斯科
    Ukraine|乌克兰|Kyiv|基辅
    Sweden|瑞典|Stockholm|斯德哥尔摩
    Norway|挪威|Oslo|奥斯陆
    Finland|芬兰|Helsinki|赫尔辛基
    Denmark|丹麦|Copenhagen|哥本哈根
    Iceland|冰岛|Reykjavik|雷克雅未克
    South Korea/Korea|韩国|Seoul|首尔
    North Korea|朝鲜|Pyongyang|平壤
    Mongolia|蒙古|Ulaanbaatar|乌兰巴托
    Vietnam|越南|Hanoi|河内
    Thailand|泰国|Bangkok|曼谷
    Laos|老挝|Vientiane|万象
    Cambodia|柬埔寨|Phnom Penh|金边
    Malaysia|马来西亚|Kuala Lumpur|吉隆坡
    Indonesia|印度尼西亚/印尼|Jakarta|雅加达
    the Philippines|菲律宾|Manila|马尼拉
    India|印度|New Delhi|新德里
    Pakistan|巴基斯坦|Islamabad|伊斯兰堡
    Bangladesh|孟加拉国|Dhaka|达卡
    Nepal|尼泊尔|Kathmandu|加德满都
    Sri Lanka|斯里兰卡|Colombo|科伦坡
    Iran|伊朗|Tehran|德黑兰
    Iraq|伊拉克|Baghdad|巴格达
    Saudi Arabia|沙特阿拉伯/沙特|Riyadh|利雅得
    Qatar|卡塔尔|Doha|多哈
    Israel|以色列|Jerusalem|耶路撒冷
    Egypt|埃及|Cairo|开罗
    Morocco|摩洛哥|Rabat|拉巴特
    Algeria|阿尔及利亚|Algiers|阿尔及尔
    Nigeria|尼日利亚|Abuja|阿布贾
    Kenya|肯尼亚|Nairobi|内罗毕
    Ethiopia|埃塞俄比亚|Addis Ababa|亚的斯亚贝巴
    South Africa|南非|Pretoria|比勒陀利亚
    the United States/the USA/the US/America/the United States of America|美国|Washington|华盛顿
    Canada|加拿大|Ottawa|渥太华
    Mexico|墨西哥|Mexico City|墨西哥城
    Cuba|古巴|Havana|哈瓦那
    Brazil|巴西|Brasilia|巴西利亚
    Argentina|阿根廷|Buenos Aires|布宜诺斯艾利斯
    Chile|智利|Santiago|圣地亚哥
    Peru|秘鲁|Lima|利马
    Colombia|哥伦比亚|Bogota|波哥大
    Venezuela|委内瑞拉|Caracas|加拉加斯
    Australia|澳大利亚/澳洲|Canberra|堪培拉
    New Zealand|新西兰|Wellington|惠灵顿
""")

# subject of the English answer | plural or bare noun for questions | colour | Chinese name | Chinese colour
COLOURS: Final = _table("""
    The sky is|sky/clear sky/daytime sky|blue|天空|蓝色
    The sea is|sea/ocean|blue|大海/海水|蓝色
    The sun is|sun|yellow|太阳|黄色
    Grass is|grass|green|草/小草/草地|绿色
    Leaves are|leaves/leaf/tree leaves|green|树叶/叶子|绿色
    Snow is|snow/fresh snow|white|雪|白色
    Milk is|milk|white|牛奶|白色
    Salt is|salt|white|盐|白色
    Rice is|rice|white|米饭/大米|白色
    Clouds are|clouds/cloud|white|云/云朵|白色
    Sheep are|sheep|white|绵羊|白色
    Swans are|swans/swan|white|天鹅|白色
    Paper is|paper|white|纸|白色
    Blood is|blood|red|血/血液|红色
    Strawberries are|strawberries/strawberry/ripe strawberry|red|草莓|红色
    Tomatoes are|tomatoes/tomato/ripe tomato|red|番茄/西红柿|红色
    Apples are|apples/apple|red|苹果|红色
    Cherries are|cherries/cherry|red|樱桃|红色
    Roses are|roses/rose|red|玫瑰/玫瑰花|红色
    Fire is|fire|red|火|红色
    Fire trucks are|fire trucks/fire truck|red|消防车|红色
    Bananas are|bananas/banana/ripe banana|yellow|香蕉|黄色
    Lemons are|lemons/lemon|yellow|柠檬|黄色
    Corn is|corn|yellow|玉米|黄色
    Sunflowers are|sunflowers/sunflower|yellow|向日葵|黄色
    Ducklings are|ducklings/duckling|yellow|小鸭子|黄色
    Gold is|gold|yellow|金子/黄金|黄色
    Oranges are|oranges/orange|orange|橙子|橙色
    Carrots are|carrots/carrot|orange|胡萝卜|橙色
    Pumpkins are|pumpkins/pumpkin|orange|南瓜|橙色
    Grapes are|grapes/grape|purple|葡萄|紫色
    Eggplants are|eggplants/eggplant|purple|茄子|紫色
    Lavender is|lavender|purple|薰衣草|紫色
    Coal is|coal|black|煤/煤炭|黑色
    Crows are|crows/crow|black|乌鸦|黑色
    Ink is|ink|black|墨水/墨汁|黑色
    Cucumbers are|cucumbers/cucumber|green|黄瓜|绿色
    Frogs are|frogs/frog|green|青蛙|绿色
    Spinach is|spinach|green|菠菜|绿色
    Limes are|limes/lime|green|青柠|绿色
    Chocolate is|chocolate|brown|巧克力|棕色
    Wood is|wood|brown|木头|棕色
    Soil is|soil|brown|泥土/土壤|棕色
    Coffee is|coffee|brown|咖啡|棕色
    Elephants are|elephants/elephant|gray|大象|灰色
    Mice are|mice/mouse|gray|老鼠|灰色
    Pigs are|pigs/pig|pink|猪/小猪|粉色
    Flamingos are|flamingos/flamingo|pink|火烈鸟|粉色
""")

# A pair is asked in both directions; a word that has two opposites keeps the one in the later line.
OPPOSITES_EN: Final = _pairs("""
    tall|short; hard|soft; dark|light; old|young; big|small; large|little; hot|cold; fast|slow; up|down
    left|right; black|white; good|bad; new|old; many|few; long|short; far|near; heavy|light; early|late
    open|closed; strong|weak; bright|dark; true|false; fat|thin; front|back; inside|outside; deep|shallow
    dry|wet; easy|hard; poor|rich; life|death; buy|sell; enter|exit; happy|sad; quiet|noisy
    start|end; success|failure; day|night; beautiful|ugly; safe|dangerous; clean|dirty; full|empty; high|low
    first|last; always|never; love|hate; push|pull; win|lose; above|below; cheap|expensive
    thick|thin; wide|narrow; smooth|rough; sharp|blunt; brave|cowardly; polite|rude; kind|cruel; lazy|diligent
    give|take; question|answer; laugh|cry; friend|enemy; war|peace; come|go; remember|forget; east|west
    north|south; begin|finish; hello|goodbye; yes|no; more|less; summer|winter; male|female; king|queen
    simple|complex; loud|silent; awake|asleep; alive|dead; warm|cool; sweet|bitter; top|bottom; add|subtract
""")

OPPOSITES_ZH: Final = _pairs("""
    大|小; 高|矮; 热|冷; 快|慢; 上|下; 左|右; 黑|白; 好|坏; 新|旧; 多|少; 长|短; 远|近; 轻|重; 早|晚; 开|关
    强|弱; 明|暗; 真|假; 胖|瘦; 前|后; 里|外; 深|浅; 干|湿; 软|硬; 贫|富; 生|死; 买|卖; 进|出; 高兴|难过; 简单|复杂
    安静|吵闹; 开始|结束; 成功|失败; 白天|黑夜; 美丽|丑陋; 安全|危险; 干净|肮脏; 容易|困难; 贵|便宜; 厚|薄; 宽|窄
    粗|细; 香|臭; 甜|苦; 年老|年轻; 男|女; 东|西; 南|北; 天|地; 加|减; 爱|恨; 笑|哭; 来|去; 升|降
    朋友|敌人; 战争|和平; 勇敢|胆小; 勤劳|懒惰; 聪明|愚蠢; 诚实|虚伪; 善良|邪恶; 温暖|寒冷; 记住|忘记
    喜欢|讨厌; 增加|减少; 前进|后退; 表扬|批评; 光明|黑暗; 骄傲|谦虚; 清楚|模糊; 整齐|凌乱; 富有|贫穷; 仔细|马虎
    积极|消极; 紧张|放松; 拥挤|空旷; 古代|现代; 新鲜|陈旧; 相同|不同; 进步|退步; 上升|下降; 公开|秘密; 优点|缺点
""")

# English | Chinese: one to one, asked in both directions
WORDS: Final = _pairs("""
    apple|苹果; banana|香蕉; orange|橙子; grape|葡萄; pear|梨; peach|桃子; lemon|柠檬; strawberry|草莓; watermelon|西瓜
    cat|猫; dog|狗; bird|鸟; fish|鱼; horse|马; cow|牛; sheep|羊; pig|猪; chicken|鸡; duck|鸭子; rabbit|兔子; tiger|老虎
    lion|狮子; elephant|大象; monkey|猴子; bear|熊; wolf|狼; fox|狐狸; snake|蛇; mouse|老鼠; panda|熊猫; bee|蜜蜂
    butterfly|蝴蝶; frog|青蛙; turtle|乌龟; dragon|龙; water|水; fire|火; mountain|山; river|河; sea|海; lake|湖; island|岛
    forest|森林; tree|树; flower|花; grass|草; leaf|叶子; stone|石头; sand|沙子; sun|太阳; moon|月亮; star|星星; sky|天空
    earth|地球; rain|雨; snow|雪; wind|风; cloud|云; thunder|雷; ice|冰; book|书; pen|笔; pencil|铅笔; paper|纸; table|桌子
    chair|椅子; bed|床; door|门; window|窗户; house|房子; room|房间; kitchen|厨房; key|钥匙; lamp|灯; clock|钟; cup|杯子
    bottle|瓶子; knife|刀; bag|包; box|盒子; school|学校; hospital|医院; bank|银行; shop|商店; park|公园; library|图书馆
    station|车站; airport|机场; hotel|酒店; restaurant|餐厅; teacher|老师; student|学生; friend|朋友; mother|妈妈; father|爸爸
    brother|兄弟; sister|姐妹; child|孩子; man|男人; woman|女人; king|国王; doctor|医生; nurse|护士; driver|司机; worker|工人
    farmer|农民; writer|作家; singer|歌手; police|警察; red|红色; blue|蓝色; green|绿色; white|白色; black|黑色; yellow|黄色
    purple|紫色; pink|粉色; brown|棕色; one|一; two|二; three|三; four|四; five|五; six|六; seven|七; eight|八; nine|九; ten|十
    hundred|百; thousand|千; today|今天; tomorrow|明天; yesterday|昨天; morning|早上; evening|晚上; week|星期; month|月份; year|年
    spring|春天; summer|夏天; autumn|秋天; winter|冬天; time|时间; work|工作; music|音乐; movie|电影; song|歌曲; game|游戏
    computer|电脑; phone|手机; camera|相机; television|电视; car|汽车; train|火车; plane|飞机; boat|船; bicycle|自行车; bus|公交车
    bread|面包; milk|牛奶; egg|鸡蛋; rice|米饭; noodles|面条; meat|肉; soup|汤; tea|茶; coffee|咖啡; sugar|糖; salt|盐; cake|蛋糕
    fruit|水果; vegetable|蔬菜; hand|手; foot|脚; head|头; eye|眼睛; ear|耳朵; mouth|嘴; nose|鼻子; hair|头发; heart|心; tooth|牙齿
    love|爱; peace|和平; dream|梦想; hope|希望; happiness|幸福; freedom|自由; world|世界; country|国家; city|城市; village|村庄
    road|路; bridge|桥; money|钱; gold|黄金; thanks|谢谢; hello|你好; goodbye|再见; robot|机器人; language|语言; word|单词
    question|问题; answer|答案; name|名字; story|故事; science|科学; history|历史; art|艺术; math|数学; eat|吃; drink|喝; run|跑
    walk|走; sleep|睡觉; read|阅读; write|写; sing|唱歌; dance|跳舞; swim|游泳; buy|买; sell|卖; learn|学习; big|大; small|小
    happy|快乐; sad|悲伤; beautiful|美丽; fast|快; slow|慢; hot|热; cold|冷; new|新; old|旧; good|好; bad|坏; ball|球; hat|帽子
    shoes|鞋子; shirt|衬衫; umbrella|雨伞; gift|礼物; ship|轮船; mirror|镜子; garden|花园; market|市场; letter|信; map|地图
""")

# English singular|English plural|legs|Chinese
LEGS: Final = _table("""
    dog|dogs|4|狗
    cat|cats|4|猫
    horse|horses|4|马
    cow|cows|4|牛
    sheep|sheep|4|羊
    pig|pigs|4|猪
    rabbit|rabbits|4|兔子
    tiger|tigers|4|老虎
    lion|lions|4|狮子
    elephant|elephants|4|大象
    mouse|mice|4|老鼠
    frog|frogs|4|青蛙
    bird|birds|2|鸟
    chicken|chickens|2|鸡
    duck|ducks|2|鸭子
    person|people|2|人
    monkey|monkeys|2|猴子
    spider|spiders|8|蜘蛛
    octopus|octopuses|8|章鱼
    ant|ants|6|蚂蚁
    bee|bees|6|蜜蜂
    butterfly|butterflies|6|蝴蝶
    fly|flies|6|苍蝇
    crab|crabs|10|螃蟹
    fish|fish|0|鱼
    snake|snakes|0|蛇
""")

DAYS_EN: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAYS_ZH: Final = ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日")
MONTHS_EN: Final = words("""
    January; February; March; April; May; June; July; August; September; October; November; December
""")
MONTHS_ZH: Final = words("一月; 二月; 三月; 四月; 五月; 六月; 七月; 八月; 九月; 十月; 十一月; 十二月")

NUMBERS_EN: Final = words("""
    zero; one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; fourteen; fifteen
    sixteen; seventeen; eighteen; nineteen; twenty
""")
NUMBERS_ZH: Final = words("""
    零; 一; 二; 三; 四; 五; 六; 七; 八; 九; 十; 十一; 十二; 十三; 十四; 十五; 十六; 十七; 十八; 十九; 二十
""")
"""The numbers from 0 to 20 as words."""
